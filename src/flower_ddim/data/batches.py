"""Chooses the pictures of every batch from the seed and the step alone."""

import torch

from ..sampling.seeds import Purpose, seeded_generator


class BatchSampler:
    """Chooses the pictures of the global batch of an optimizer step, as a function of (seed, step) alone.

    An epoch is `repeats` passes over the pictures, each in a new order. It is cut into batches, and a partial one at its end is
    left out. A resumed run sees the same batches as one without a break, and so does a run on another number of processes.

    Args:
        batch_size: pictures in a step of all processes together.
        repeats: passes over the pictures in an epoch.

    Raises:
        ValueError: if an epoch has less than one batch.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, repeats: int = 1):
        if num_images * repeats < batch_size:
            raise ValueError(
                f"{repeats} passes over {num_images} pictures are fewer than one batch of {batch_size}: lower `train_batch_size`."
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        self.batches_per_epoch = num_images * repeats // batch_size
        self._latest = None  # epoch and order; replaced in one go, since threads may ask

    def __call__(self, step: int) -> torch.Tensor:
        """Indices of the pictures of step `step` (counted from 0), shape (batch_size,)."""
        epoch, position = divmod(step, self.batches_per_epoch)
        latest = self._latest
        if latest is None or latest[0] != epoch:
            passes = range(epoch * self.repeats, (epoch + 1) * self.repeats)
            generators = [seeded_generator(self.seed, Purpose.ORDER, number) for number in passes]
            order = torch.cat([torch.randperm(self.num_images, generator=generator) for generator in generators])
            self._latest = latest = epoch, order
        return latest[1][position * self.batch_size : (position + 1) * self.batch_size]
