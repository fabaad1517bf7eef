"""Animations as GIF or WebP."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from .grids import as_pixels


def trajectory_frames(noisy: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> list[Image.Image]:
    """Makes the frames of an animation with x_t on the left and x̂_0 on the right. The last frame stays for a while."""
    frames = [Image.fromarray(np.hstack([as_pixels(a), as_pixels(b)])) for a, b in zip(noisy, predicted, strict=True)]
    return frames + frames[-1:] * 8


def check_animation(path: str | PathLike, frames_per_second: float):
    """Raises a ValueError for what [`save_animation`] cannot write. A caller can ask before it makes the frames."""
    if frames_per_second <= 0:
        raise ValueError(f"`frames_per_second` is {frames_per_second}, but must be positive.")
    if Path(path).suffix.lower() not in (".gif", ".webp"):
        raise ValueError(f"{path} can hold no animation: let its name end in .gif or .webp.")


def save_animation(
    frames: Sequence[Image.Image], path: str | PathLike, frames_per_second: float = 10, size: int | None = None
):
    """Writes frames as a GIF or WebP that repeats for ever, enlarged to a height of `size` pixels if that is given.

    Raises:
        ValueError: if the name ends neither in .gif nor in .webp, or the speed is not positive.
    """
    check_animation(path, frames_per_second)
    if size is not None:
        frames = [f.resize((f.width * size // f.height, size), Image.Resampling.BICUBIC) for f in frames]
    first, *others = frames
    duration = round(1000 / frames_per_second)
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0, quality=75, method=6)
