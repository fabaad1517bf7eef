"""Animates the way through several flowers: `python scripts/interpolate.py --num_anchors 5 --output loop.webp`."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.interpolate")
