"""One of several training processes: `accelerate launch distributed_worker.py OUT BATCH_SIZE`.

Trains twice on the same pictures, with frozen and with local BatchNorm statistics, and saves what each process saw and averaged.
"""

import sys
from pathlib import Path

import torch
from training_runs import SMALL

from flower_ddim.training.config import TrainingConfig
from flower_ddim.training.trainer import Trainer


STEPS = 20


def freeze_statistics(unet):
    for module in unet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True: None


def run(out: Path, batch_size: int):
    for statistics in ("frozen", "local"):
        options = SMALL | {"output_dir": str(out / statistics), "cache_dir": str(out.parent / "cache")}
        options |= {"train_batch_size": batch_size, "max_train_steps": STEPS, "checkpointing_steps": STEPS}
        options |= {"class_conditional": True, "class_dropout": 0.3}
        trainer = Trainer(TrainingConfig(**options, random_flip=True))
        if statistics == "frozen":
            freeze_statistics(trainer.learner.raw_unet)
        batches = [trainer.learner.batches.training(step, 0) for step in range(STEPS)]
        trainer.train()
        rank = trainer.accelerator.process_index
        torch.save(
            {"batches": batches, "ema": trainer.learner.ema.averaged.state_dict()}, out / f"{statistics}-{rank}.pt"
        )


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
