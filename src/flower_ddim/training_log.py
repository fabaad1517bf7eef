"""What a training run reports: numbers by step, in a file that survives interruptions."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator

from .config import TrainingConfig


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, in the order of the steps."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, **values: float):
        with open(self.path, "a") as file:
            file.write(json.dumps(values) + "\n")

    def forget_after(self, step: int):
        """Drops what an interrupted run logged after `step`, and a line it did not finish: the steps will be made again."""
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in kept))


class Window:
    """Losses and gradient norms since the last line of the log, kept on the device until they are asked for."""

    def __init__(self, accelerator: Accelerator, first_step: int):
        self.accelerator = accelerator
        self.first_step = first_step
        self.start = time.perf_counter()
        self.losses, self.grad_norms = [], []

    def add(self, loss: torch.Tensor, grad_norm: torch.Tensor):
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)

    def close(self, global_batch: int) -> dict[str, float]:
        """Means over steps and processes, and the speed.

        Raises:
            FloatingPointError: if a loss, or a gradient outside mixed fp16 (which retries those), was not finite, naming
                the step.
        """
        losses = self.accelerator.reduce(torch.stack(self.losses), "mean")
        grad_norms = torch.stack(self.grad_norms).to(losses)
        finite = losses.isfinite()
        if self.accelerator.scaler is None:
            finite &= grad_norms.isfinite()
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise FloatingPointError(
                f"The loss of step {self.first_step + bad + 1} was {losses[bad]:.4g}, its gradient's norm {grad_norms[bad]:.4g}: "
                "training has diverged. The checkpoints are from before; resume from one with a lower learning_rate or "
                "a max_grad_norm, and without fp16."
            )
        seconds = time.perf_counter() - self.start
        return {
            "loss": losses.mean().item(),
            "grad_norm": grad_norms.mean().item(),
            "images_per_second": len(losses) * global_batch / seconds,
        }


def trackable(config: TrainingConfig) -> dict:
    """The options as a tracker takes them: scalars, and no token."""
    options = {name: value for name, value in asdict(config).items() if name != "hub_token"}
    return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in options.items()}
