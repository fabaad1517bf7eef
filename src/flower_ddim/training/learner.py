"""What a training improves: a network, its moving average and its optimizers, and one step of them all."""

import math
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator

from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from .batches import Batches
from .config import TrainingConfig
from .distillation import Distillation
from .ema import ExponentialMovingAverage, share_statistics
from .growth import GrowingUNet, finest_level_at
from .loss import diffusion_loss
from .optimizers import learning_rate_factor, make_optimizers
from .pictures import Pictures
from .setup import build_model, place_network


class Learner:
    """A network that learns.

    Args:
        total_steps: optimizer steps of the whole training, over which the learning rate takes its course.
        global_batch: pictures in an optimizer step, over all processes.
        teacher: whose student the network is to be, if it is one; see [`load_teacher`].
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        pictures: Pictures,
        total_steps: int,
        global_batch: int,
        teacher: FlowerDDIMPipeline | None = None,
    ):
        self.config, self.accelerator, self.global_batch = config, accelerator, global_batch
        unet, self.scheduler = build_model(config, pictures, teacher)
        self.raw_unet = place_network(unet, config, accelerator)  # without what accelerate wraps around it
        self.growing = GrowingUNet(self.raw_unet, len(config.growth_steps)) if config.growth_steps else None
        self.ema = ExponentialMovingAverage(
            self.raw_unet, config.ema_max_decay, config.ema_power, config.ema_inv_gamma
        )
        optimizers = make_optimizers(self.raw_unet, config)
        self._lr_factor = learning_rate_factor(optimizers[0], config, total_steps)
        self.unet, *self.optimizers = accelerator.prepare(self.growing or self.raw_unet, *optimizers)
        statistics = (unet.config.get(name, 0.5) for name in ("image_mean", "image_std"))
        self.batches = Batches(config, accelerator, pictures, unet.config.in_channels, *statistics)
        self.distillation = None
        if teacher:
            place_network(teacher.unet, config, accelerator)
            self.distillation = Distillation(teacher, self.scheduler, config, accelerator)
        self.step = self.images_seen = 0

    def train_mode(self):
        """Puts the network into training mode, or leaves a student's BatchNorm the statistics of its teacher.

        A student sees only a few diffusion times, whose statistics differ.
        """
        self.unet.train(self.distillation is None)

    def loss(
        self,
        network: torch.nn.Module,
        images: torch.Tensor,
        noise: torch.Tensor,
        diffusion_time: torch.Tensor,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of a network on a batch of [`Batches`]: that of its target, or that of what a teacher makes."""
        batch = images, noise, diffusion_time, class_labels
        if self.distillation:
            return self.distillation.loss(network, *batch, self.config.loss)
        return diffusion_loss(network, self.scheduler, *batch, self.config.loss)

    def training_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step; returns its loss and the norm of its gradient, without waiting for the device."""
        config, accelerator = self.config, self.accelerator
        level = finest_level_at(self.step, config.growth_steps)
        if self.growing:
            self.growing.finest_level = level
        losses = []
        for part in range(config.gradient_accumulation_steps):
            # Pictures, noise, diffusion times and classes, then noisy images, prediction and loss.
            batch = self.batches.training(self.step, part)
            is_last = part == config.gradient_accumulation_steps - 1
            with nullcontext() if is_last else accelerator.no_sync(self.unet):
                loss = self.loss(self.unet, *batch)
                accelerator.backward(loss / config.gradient_accumulation_steps)
            losses.append(loss.detach())
        grad_norm = accelerator.clip_grad_norm_(self.unet.parameters(), config.max_grad_norm or math.inf)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(self.step)
            optimizer.step()
            optimizer.zero_grad()
        share_statistics(self.raw_unet, accelerator)
        self.ema.update(self.raw_unet)
        self.step += 1
        self.images_seen += self.global_batch
        if finest_level_at(self.step, config.growth_steps) != level:
            # The average would hold the new level back by what it was when it did nothing.
            self.ema.restart(self.raw_unet)
        return torch.stack(losses).mean(), grad_norm

    def learning_rate(self, step: int) -> float:
        """Learning rate of the optimizer step `step`, counted from 0."""
        return self.config.learning_rate * self._lr_factor(step)

    @property
    def is_growing(self) -> bool:
        """Whether the last step left a part of the network out: what it generates is then noise."""
        return finest_level_at(self.step - 1, self.config.growth_steps) > 0

    def pipeline(self) -> FlowerDDIMPipeline:
        """The pipeline that is sampled from, saved and shipped: of the averaged weights, unless `use_ema` is off."""
        return FlowerDDIMPipeline(self.ema.averaged if self.config.use_ema else self.raw_unet, self.scheduler)

    def save(self, folder: Path) -> None:
        """Writes what a run needs to resume from here, beside the pipeline; every process must call this."""
        self.accelerator.save_state(folder)
        if self.accelerator.is_main_process and not self.config.use_ema:  # then the pipeline does not hold the average
            self.ema.averaged.save_pretrained(folder / "ema")

    def load(self, checkpoint: Path, state: dict):
        """Takes over what [`save`] wrote into the folder `state` of a checkpoint.

        Args:
            state: what the checkpoint says of itself, with `step`, `images_seen` and `ema_updates`.
        """
        self.accelerator.load_state(checkpoint / "state")
        folder = checkpoint / ("unet" if self.config.use_ema else "state/ema")
        averaged = type(self.ema.averaged).from_pretrained(folder)
        self.ema.averaged.load_state_dict(averaged.state_dict())
        self.step, self.images_seen, self.ema.num_updates = state["step"], state["images_seen"], state["ema_updates"]
