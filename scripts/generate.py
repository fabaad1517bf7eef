"""Generates images: `python scripts/generate.py`, or `accelerate launch scripts/generate.py --output_dir DIR` for many."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.generate")
