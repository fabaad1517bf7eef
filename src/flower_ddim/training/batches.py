"""What a training step is given: standardised pictures, noise and diffusion times, the same on however many processes."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from ..sampling.seeds import GOLDEN_RATIO, Purpose, draw_noise_time_flip, seeded_generator
from .config import TrainingConfig
from .growth import finest_level_at
from .pictures import Pictures
from .prefetching import Prefetcher


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
Drawn = tuple[torch.Tensor | None, ...]  # uint8 pixels (B, H, W, C), noise, times, whether to flip, labels

# How many are drawn ahead for a GPU, some megabytes each.
BATCHES_AHEAD = 4
# In place of the run's own seed.
VALIDATION_SEED = 0


def spread_times(key: tuple[int, ...], positions: Sequence[int]) -> torch.Tensor:
    """Diffusion times in [0, 1], one for each position in the global batch, that lie evenly: (offset + position·φ) mod 1.

    The offset is a function of `key`, so each time alone is uniform. After Kingma et al. 2021, appendix I.1, with the golden ratio
    less one, φ, in place of 1/B: any few neighbours then lie evenly, and so does the share of every process.
    """
    offset = torch.rand((), generator=seeded_generator(*key), dtype=torch.float64)
    return (offset + torch.tensor(positions, dtype=torch.float64) * GOLDEN_RATIO) % 1


class Batches:
    """Makes this process's batches, each a function of the seed, step and position alone.

    A batch is images, noise (B, C, H, W), diffusion times (B,) and class labels (B,), `None` where no classes are learned.

    Args:
        channels: of the network, which may be more than those of the pictures.
        mean, std: statistics that the images are standardised with, one number or one a channel.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, pictures: Pictures, channels: int, mean, std):
        self.config = config
        self.accelerator = accelerator
        self.pictures = pictures
        self.channels = channels
        self.mean, self.std = (
            torch.as_tensor(value, device=accelerator.device).reshape(1, -1, 1, 1) for value in (mean, std)
        )
        # A GPU is given batches that the processor drew meanwhile. A stream has processes of its own, and an order.
        prefetches = accelerator.device.type == "cuda" and not pictures.stream
        self._drawn = Prefetcher(self._draw_training, BATCHES_AHEAD) if prefetches else self._draw_training

    def training(self, step: int, part: int = 0) -> Batch:
        """The batch of one forward pass, `part` of the optimizer step `step`; average-pooled while the network grows."""
        return self._to_device(self._drawn(step * self.config.gradient_accumulation_steps + part))

    def _draw_training(self, number: int) -> Drawn:
        """Draws the batch of a forward pass, counted from the first of the training."""
        step, part = divmod(number, self.config.gradient_accumulation_steps)
        size, accelerator, seed = self.config.train_batch_size, self.accelerator, self.config.seed
        first = (part * accelerator.num_processes + accelerator.process_index) * size
        positions = range(first, first + size)
        if self.pictures.stream:
            pixels, labels = self.pictures.stream.next_batch(size)
        else:
            chosen = self.pictures.batches(step)[first : first + size]
            pixels, labels = self.pictures.train[chosen], self.pictures.train_labels
            labels = labels[chosen] if labels is not None else None
        reduction = 2 ** finest_level_at(step, self.config.growth_steps)
        keys = [(seed, Purpose.TRAINING, step, position) for position in positions]
        noise, times, flips = draw_noise_time_flip(self._noise_shape(pixels, reduction), *keys)
        if self.config.low_discrepancy_times:
            times = spread_times((seed, Purpose.TIMES, step), positions).to(times)
        flips = flips if self.config.random_flip else None
        return self._pinned(torch.from_numpy(pixels), noise, times, flips, self._drop(labels, step, positions))

    def _noise_shape(self, pixels: np.ndarray, reduction: int = 1) -> tuple[int, int, int]:
        return self.channels, pixels.shape[1] // reduction, pixels.shape[2] // reduction

    def _pinned(self, *drawn: torch.Tensor | None) -> Drawn:
        """In memory that a GPU copies from by itself: it waits for no other, and no step waits for it."""
        if self.accelerator.device.type != "cuda":
            return drawn
        return tuple(tensor if tensor is None else tensor.pin_memory() for tensor in drawn)

    def _drop(self, labels: np.ndarray | None, step: int, positions: Sequence[int]) -> torch.Tensor | None:
        """Labels of a batch, some of them replaced by the null class: within it, since BatchNorm must see both together."""
        if labels is None:
            return None
        keys = ((self.config.seed, Purpose.CLASS_DROPOUT, step, position) for position in positions)
        chances = torch.stack([torch.rand((), generator=seeded_generator(*key)) for key in keys])
        return torch.from_numpy(labels).masked_fill(
            chances < self.config.class_dropout, len(self.pictures.class_names)
        )

    def validation(self, indices: Sequence[int]) -> Batch:
        """The batch of these validation pictures, with the same noise and times whenever it is asked for, and in every training.

        So the losses of trainings with other seeds can be compared, and times that lie evenly leave less to chance.
        """
        keys = [(VALIDATION_SEED, Purpose.VALIDATION, index) for index in indices]
        pixels, labels = self.pictures.validation[indices], self.pictures.validation_labels
        labels = torch.from_numpy(labels[indices]) if labels is not None else None
        noise, times, _ = draw_noise_time_flip(self._noise_shape(pixels), *keys)
        times = spread_times((VALIDATION_SEED, Purpose.TIMES), indices).to(times)
        return self._to_device(self._pinned(torch.from_numpy(pixels), noise, times, None, labels))

    def _to_device(self, drawn: Drawn) -> Batch:
        device = self.accelerator.device
        pixels, noise, times, flips, labels = (
            tensor if tensor is None else tensor.to(device, non_blocking=True) for tensor in drawn
        )
        images = pixels.permute(0, 3, 1, 2).expand(-1, self.channels, -1, -1).float()
        reduction = images.shape[-1] // noise.shape[-1]
        images = (F.avg_pool2d(images, reduction) / 255 - self.mean) / self.std
        if flips is not None:
            images = torch.where(flips[:, None, None, None], images.flip(-1), images)
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        noise = (noise / reduction).contiguous(memory_format=layout)  # as pooling weakens noise
        return images.contiguous(memory_format=layout), noise, times, labels
