"""`python -m flower_ddim`: the self-check, as `flower-ddim info`; with a subcommand the same as `flower-ddim`."""

import sys

from .commands.main import main, run_subcommand


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        main()
    else:
        run_subcommand("info", sys.argv[1:], "python -m flower_ddim")
