"""Runs a training, or tells what it would be."""

from pathlib import Path

import yaml

from .config import TrainingConfig
from .preflight import preflight
from .trainer import Trainer


def train(config: TrainingConfig) -> Path | None:
    """Trains as `config` says and returns the folder with the pipeline; a dry run prints what it would do instead.

    Raises:
        ValueError, OSError: for options, pictures or folders that cannot be used, before anything is written.
        FloatingPointError: if the loss is no longer finite.
    """
    trainer = Trainer(config)
    if config.dry_run:
        plan = preflight(trainer)
        if trainer.accelerator.is_main_process:
            print(yaml.safe_dump(plan, sort_keys=False))
        return None
    try:
        return trainer.train()
    finally:
        trainer.output.unlock()
        trainer.accelerator.end_training()
