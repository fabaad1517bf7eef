"""What a training run reports: numbers by step, in a file that survives interruptions, samples, and a loss curve."""

import json
import math
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import broadcast_object_list
from diffusers.utils import make_image_grid
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..extras import install_command
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..sampling.generate import generate_numbers, spread_classes
from ..storage.files import read_metrics, replacing, write_text
from .config import TrainingConfig
from .messages import main_process_logger
from .resuming import recorded_options


logger = main_process_logger(__name__)


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, in the order of the steps."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, **values: float):
        with open(self.path, "a") as file:
            file.write(json.dumps(values) + "\n")

    def values(self, name: str) -> list[float]:
        """All numbers of that name so far."""
        return [values[name] for values in self._lines() if name in values]

    def names(self, step: int) -> set[str]:
        """What has been logged of a step; every process must ask, and learns what the main one's file says."""
        names = {name for values in self._lines() if values["step"] == step for name in values}
        return broadcast_object_list([names])[0]

    def forget_after(self, step: int):
        """Drops what an interrupted run logged after `step`, and a line it did not finish: the steps will be made again."""
        if self.path.exists():
            kept = [values for values in self._lines() if values["step"] <= step]
            write_text(self.path, "".join(json.dumps(values) + "\n" for values in kept))

    def _lines(self) -> list[dict]:
        return read_metrics(self.path) if self.path.exists() else []


class LogWindow:
    """Losses and gradient norms since the last line of the log, kept on the device until a line needs them."""

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
            "grad_norm": grad_norms[grad_norms.isfinite()].mean().item(),
            "images_per_second": len(losses) * global_batch / seconds,
        }


def trackable(config: TrainingConfig) -> dict:
    """The options as a tracker takes them: scalars, and no token."""
    options = recorded_options(config)
    return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in options.items()}


def sample_grid(pipeline: FlowerDDIMPipeline, count: int, path: Path, comment: str) -> list[Image.Image]:
    """Writes a grid of images with the seeds 0, 1, … and classes from first to last; returns the images.

    `comment` goes into its metadata.
    """
    pipeline.set_progress_bar_config(disable=True)
    images = generate_numbers(pipeline, range(count), seed=0, class_labels=spread_classes(pipeline, count))
    rows = next(n for n in range(math.isqrt(count), 0, -1) if count % n == 0)
    metadata = PngInfo()
    metadata.add_text("Comment", comment)
    with replacing(path) as unfinished:
        make_image_grid(images, rows=rows, cols=count // rows).save(unfinished, pnginfo=metadata)
    return images


def show_images(trackers: list[GeneralTracker], title: str, images: list[Image.Image], step: int):
    """Gives images to the trackers that take any; each expects another form."""
    for tracker in trackers:
        if tracker.name == "tensorboard":
            arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
            tracker.log_images({title: arrays}, step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({title: images}, step)


def plot_loss(metrics: Path, path: Path):
    """Draws the loss curve, where matplotlib is installed."""
    try:
        from ..figures.loss import loss_curve
    except ModuleNotFoundError as error:
        logger.warning(f"No loss curve was drawn ({error}): {install_command('figures')}")
        return
    with replacing(path) as unfinished:
        loss_curve([metrics]).savefig(unfinished)


@contextmanager
def dispensable(what: str):
    """A context of which a failure is a warning: a training does not fail for a picture that it draws on the way."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        logger.warning(f"{what} could not be made ({error}); the training goes on.")
