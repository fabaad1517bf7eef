"""Measures speed and memory: `python scripts/benchmark.py compare`, or `sizes`."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.benchmark")
