"""What the scripts share."""

import sys
from collections.abc import Callable


def run(main: Callable[[], None]):
    """Runs the main function of a script; a mistake of its user ends in one sentence and exit code 1, not in a traceback."""
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
