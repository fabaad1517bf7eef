"""What a training step is given: standardised pictures, noise and diffusion times, the same on however many processes."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from ..sampling.seeds import GOLDEN_RATIO, Purpose, draw_noise_time_flip, seeded_generator
from .config import TrainingConfig
from .pictures import Pictures


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


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

    def training(self, step: int, part: int = 0, reduction: int = 1) -> Batch:
        """The batch of one forward pass, `part` of the optimizer step `step`, average-pooled by the factor `reduction`."""
        size, accelerator = self.config.train_batch_size, self.accelerator
        first = (part * accelerator.num_processes + accelerator.process_index) * size
        positions = range(first, first + size)
        if self.pictures.stream:
            pixels, labels = self.pictures.stream.next_batch(size)
        else:
            chosen = self.pictures.batches(step)[first : first + size]
            pixels, labels = self.pictures.train[chosen], self.pictures.train_labels
            labels = labels[chosen] if labels is not None else None
        keys = [(self.config.seed, Purpose.TRAINING, step, position) for position in positions]
        images, noise, times = self._to_device(pixels, keys, self.config.random_flip, reduction)
        if self.config.low_discrepancy_times:
            times = spread_times((self.config.seed, Purpose.TIMES, step), positions).to(times)
        return images, noise, times, self._drop(labels, step, positions)

    def _drop(self, labels: np.ndarray | None, step: int, positions: Sequence[int]) -> torch.Tensor | None:
        """Labels of a batch, some of them replaced by the null class: within it, since BatchNorm must see both together."""
        if labels is None:
            return None
        keys = ((self.config.seed, Purpose.CLASS_DROPOUT, step, position) for position in positions)
        chances = torch.stack([torch.rand((), generator=seeded_generator(*key)) for key in keys])
        labels = torch.from_numpy(labels).masked_fill(
            chances < self.config.class_dropout, len(self.pictures.class_names)
        )
        return labels.to(self.accelerator.device)

    def validation(self, indices: Sequence[int]) -> Batch:
        """The batch of these validation pictures, with the same noise and times whenever it is asked for."""
        keys = [(self.config.seed, Purpose.VALIDATION, index) for index in indices]
        labels = self.pictures.validation_labels
        if labels is not None:
            labels = torch.from_numpy(labels[indices]).to(self.accelerator.device)
        return *self._to_device(self.pictures.validation[indices], keys), labels

    def _to_device(self, pixels: np.ndarray, keys: list[tuple[int, ...]], may_flip: bool = False, reduction: int = 1):
        device = self.accelerator.device
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
        images = F.avg_pool2d(images.expand(-1, self.channels, -1, -1).float(), reduction)
        noise, diffusion_time, flip = draw_noise_time_flip(tuple(images.shape[1:]), *keys)
        images, noise = (images / 255 - self.mean) / self.std, noise / reduction  # as pooling weakens noise
        if may_flip:
            images = torch.where(flip.to(device)[:, None, None, None], images.flip(-1), images)
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        noise = noise.to(device, memory_format=layout)
        return images.contiguous(memory_format=layout), noise, diffusion_time.to(device)
