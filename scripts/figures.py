"""Draws the figures of the chapter: `python scripts/figures.py --data FOLDER --output_dir figures`."""

from flower_ddim.commands.figures import main
from flower_ddim.entrance import run


if __name__ == "__main__":
    run(main)
