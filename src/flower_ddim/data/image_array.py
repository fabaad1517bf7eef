"""Decoded pictures as one array of uint8 pixels, in memory or on disk, and their channel statistics."""

from collections.abc import Iterator

import numpy as np
import psutil
from datasets import Dataset


class ImageArray:
    """Decoded pictures, indexed by arrays of positions: `images[indices]` is uint8 (B, H, W, C).

    C is 1 where every picture is grey, else 3.

    Args:
        decoded: pixels, a row for each picture.
        cache: `"memory"`, `"disk"` (memory-mapped) or `"auto"`: memory if the pixels fill less than half of what is free.
        kept: which pictures of the data set they are, those that could be decoded, shape (N,).
    """

    def __init__(self, decoded: Dataset, resolution: int, cache: str, kept: np.ndarray):
        self.kept = kept
        self.chunks = [_chunk_pixels(chunk, resolution) for chunk in decoded.data.column("pixels").chunks]
        self.is_grey = all(map(are_grey, self._parts()))
        if cache == "auto":
            fits = sum(c.nbytes for c in self.chunks) < psutil.virtual_memory().available / 2
            cache = "memory" if fits else "disk"
        if cache == "memory":
            self.chunks = [np.concatenate(self.chunks)[..., : self.channels]]
        self._starts = np.cumsum([0] + [len(c) for c in self.chunks])

    @property
    def channels(self) -> int:
        return 1 if self.is_grey else 3

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, indices) -> np.ndarray:
        indices = np.asarray(indices)
        which = np.searchsorted(self._starts, indices, side="right") - 1
        pixels = [self.chunks[w][i] for w, i in zip(which, indices - self._starts[which], strict=True)]
        return np.stack(pixels)[..., : self.channels]

    def _parts(self) -> Iterator[np.ndarray]:
        """Yields all pixels, those of a few pictures at a time, so that only these are in memory."""
        for chunk in self.chunks:
            for start in range(0, len(chunk), 256):
                yield chunk[start : start + 256]

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every channel, as fractions of 255."""
        return channel_statistics(part[..., : self.channels] for part in self._parts())


def _chunk_pixels(chunk, resolution: int) -> np.ndarray:
    """Views the pixels of an Arrow binary array as (N, H, W, 3). Its buffer may belong to a longer array."""
    _, offsets, data = chunk.buffers()
    start = int(np.frombuffer(offsets, dtype=np.int32)[chunk.offset])
    pixels = np.frombuffer(data, dtype=np.uint8, count=len(chunk) * resolution**2 * 3, offset=start)
    return pixels.reshape(-1, resolution, resolution, 3)


def are_grey(images: np.ndarray) -> bool:
    """Whether all channels of images (N, H, W, C) are the same."""
    return bool((images[..., :1] == images).all())


def channel_statistics(parts) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel of uint8 images, given as arrays (N, H, W, C), as fractions of 255.

    One pass that adds integers, so the result does not depend on the order or on the division into arrays.

    Raises:
        ValueError: if a channel has the same value everywhere.
    """
    count, sums, squares = 0, 0, 0
    for images in parts:
        pixels = images.reshape(-1, images.shape[-1]).astype(np.int64)
        count += len(pixels)
        sums = sums + pixels.sum(0)
        squares = squares + (pixels**2).sum(0)
    mean = sums / count
    std = np.sqrt(squares / count - mean**2)
    if (std == 0).any():
        raise ValueError(
            "A channel has the same value in all pixels of all pictures, so there is nothing to learn: give others."
        )
    return (mean / 255).tolist(), (std / 255).tolist()
