"""Animates the way through several flowers: `python scripts/interpolate.py --num_anchors 5 --output loop.webp`."""

from flower_ddim.commands.interpolate import main
from flower_ddim.entrance import run


if __name__ == "__main__":
    run(main)
