"""Streams pictures without end and decodes them on the fly, for data sets larger than the disk."""

import itertools
import logging
from collections.abc import Iterator

import numpy as np
from datasets import Image, IterableDataset
from datasets.distributed import split_dataset_by_node

from .decoding import decode_batch
from .image_array import are_grey, channel_statistics
from .sources import image_column


logger = logging.getLogger(__name__)

STREAMING_SHUFFLE_BUFFER = 1024  # pictures; channel statistics come from as many


class StreamedImages:
    """Streams one process's share of a data set without end, decoded and shuffled within a buffer.

    Args:
        label_column: column of the classes, a `datasets.ClassLabel`, or `None` to go without.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        resolution: int,
        center_crop: bool,
        seed: int,
        rank: int,
        world: int,
        label_column: str | None = None,
    ):
        self.column = image_column(dataset)
        self.label_column = label_column
        self.resolution = resolution
        self.center_crop = center_crop
        self.dataset = dataset.cast_column(self.column, Image(decode=False))
        self.shuffled = split_dataset_by_node(self.dataset, rank, world).shuffle(
            seed=seed, buffer_size=STREAMING_SHUFFLE_BUFFER
        )
        first = [pixels for pixels, _ in itertools.islice(self._decoded(self.dataset), STREAMING_SHUFFLE_BUFFER)]
        if not first:
            raise ValueError("The data set holds no picture that can be read: save them as JPEG or PNG.")
        first = np.stack(first)
        self.channels = 1 if are_grey(first) else 3
        self.statistics = channel_statistics([first[..., : self.channels]])
        self._endless = self._repeat()

    def next_batch(self, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The next `size` pictures, uint8 (size, H, W, C), and the indices of their classes, (size,), if there are any.

        Raises:
            ValueError: if the stream began with grey pictures and a coloured one follows, or for a picture without a class.
        """
        pixels, labels = zip(*(next(self._endless) for _ in range(size)), strict=True)
        pictures = np.stack(pixels)
        if self.channels == 1 and not are_grey(pictures):
            raise ValueError(
                f"The first {STREAMING_SHUFFLE_BUFFER} pictures of the stream are grey, but there are coloured ones later: shuffle "
                "the files, or take one kind out."
            )
        return pictures[..., : self.channels], np.array(labels) if self.label_column else None

    def _repeat(self) -> Iterator[tuple[np.ndarray, int | None]]:
        for current_pass in itertools.count():
            self.shuffled.set_epoch(current_pass)
            count = 0
            for count, pair in enumerate(self._decoded(self.shuffled), start=1):  # noqa: B007
                yield pair
            if count == 0:
                raise ValueError(
                    "The stream holds no picture that can be read, or fewer files than processes: start fewer processes."
                )

    def _decoded(self, dataset: IterableDataset) -> Iterator[tuple[np.ndarray, int | None]]:
        for row in dataset:
            decoded = decode_batch({self.column: [row[self.column]]}, self.column, self.resolution, self.center_crop)
            if decoded["problem"][0]:
                logger.warning(f"A picture cannot be read and is skipped: {decoded['problem'][0]}")
            else:
                shape = (self.resolution, self.resolution, 3)
                label = row[self.label_column] if self.label_column else None
                if self.label_column and label in (None, -1):
                    raise ValueError("A picture of the stream has no class: leave such pictures out.")
                yield np.frombuffer(decoded["pixels"][0], dtype=np.uint8).reshape(shape), label
