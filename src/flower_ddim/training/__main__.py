"""`python -m flower_ddim.training`, for launchers: `accelerate launch -m flower_ddim.training [recipe] --option value …`."""

from ..entrance import run


PROG = "python -m flower_ddim.training"


def main():
    from . import arguments  # only now: it takes seconds, in which Ctrl-C is no traceback, either

    arguments.main(prog=PROG)


if __name__ == "__main__":
    run(main, PROG)
