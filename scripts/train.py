"""Trains a flower model: `accelerate launch scripts/train.py --train_data_dir FOLDER --output_dir FOLDER`."""

from transformers import HfArgumentParser

from flower_ddim.cli import run
from flower_ddim.config import TrainingConfig
from flower_ddim.training import train


def main():
    (config,) = HfArgumentParser(TrainingConfig, description=__doc__).parse_args_into_dataclasses()
    print(f"The trained pipeline is in {train(config)}.")


if __name__ == "__main__":
    run(main)
