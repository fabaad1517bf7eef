"""Draws the figures of the chapter: `python scripts/figures.py --data FOLDER --output_dir figures`."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.figures")
