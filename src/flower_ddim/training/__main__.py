"""`python -m flower_ddim.training`, for launchers: `accelerate launch -m flower_ddim.training [recipe] --option value …`."""

from functools import partial

from ..entrance import run
from .arguments import main


if __name__ == "__main__":
    PROG = "python -m flower_ddim.training"
    run(partial(main, prog=PROG), PROG)
