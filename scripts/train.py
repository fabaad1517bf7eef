"""Trains a diffusion model: `python scripts/train.py [recipe] --train_data_dir FOLDER --output_dir FOLDER`."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.train")
