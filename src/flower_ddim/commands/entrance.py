"""What the scripts share."""

import logging
import sys
from collections.abc import Callable

from ..memory import keep_freed_memory


# What is not installed for everybody -> the extra of this package that brings it. Scripts import these inside `main`.
EXTRAS = {"matplotlib": "figures", "gradio": "app", "h5py": "keras"}


def run(main: Callable[[], None]):
    """Runs the main function of a script: our messages are shown, a user's mistake ends in one sentence and exit code 1."""
    keep_freed_memory()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("flower_ddim").setLevel(logging.INFO)
    try:
        main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        sys.exit(f"{sys.argv[0]}: this needs {package}: pip install 'flower-ddim[{EXTRAS[package]}]'.")
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
