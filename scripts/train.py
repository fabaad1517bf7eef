"""Trains a diffusion model: `python scripts/train.py [recipe.yaml] --train_data_dir FOLDER --output_dir FOLDER`.

With GPUs or on several machines: `accelerate launch scripts/train.py …`.
"""

import sys

from flower_ddim.commands.entrance import run
from flower_ddim.training.arguments import parse_config
from flower_ddim.training.trainer import train


def main():
    folder = train(parse_config(sys.argv[1:]))
    if folder:
        print(f"The trained pipeline is in {folder}.")


if __name__ == "__main__":
    run(main)
