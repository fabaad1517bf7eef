"""Puts images into grids.

Images are arrays (H, W, C) or (H, W), uint8 or floating point in [0, 1], or PIL images.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image


CELL = 0.9  # side of an image in a grid, in inches


def image_grid(rows: Sequence[Sequence], row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()) -> Figure:
    """Draws images in rows and columns, with labels on the left and on top. Short rows leave their last places empty."""
    columns = max(len(row) for row in rows)
    label_lines = max((label.count("\n") + 1 for label in column_labels), default=0)
    top = 0.15 * label_lines + 0.08 * bool(label_lines)  # inches
    left = 0.08 * max((len(line) for label in row_labels for line in label.split("\n")), default=0)
    width, height = left + columns * CELL, top + len(rows) * CELL
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(left=left / width, right=1, bottom=0, top=1 - top / height, wspace=0.04, hspace=0.04)
    for i, row in enumerate(rows):
        for j, axis in enumerate(axes[i]):
            _show(axis, row[j] if j < len(row) else None)
        if row_labels:
            axes[i][0].set_ylabel(row_labels[i], rotation=0, ha="right", va="center", fontsize=8)
    for axis, label in zip(axes[0], column_labels, strict=False):
        axis.set_title(label, fontsize=8, pad=3)
    return figure


def captioned_grid(images: Sequence, captions: Sequence[str], columns: int = 8) -> Figure:
    """Draws images row by row, each with its caption above it."""
    rows = math.ceil(len(images) / columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    height = CELL + 0.12 * lines + 0.08  # inches, of an image with its caption
    figure = Figure(figsize=(columns * CELL, rows * height), dpi=100)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - (height - CELL) / (rows * height), wspace=0.04)
    figure.subplots_adjust(hspace=(height - CELL) / CELL)
    for axis, image, caption in itertools.zip_longest(axes, images, captions):
        _show(axis, image)
        axis.set_title(caption or "", fontsize=7, pad=2)
    return figure


def _show(axis, image):
    """Draws an image without a frame; `None` leaves its place empty."""
    axis.set(xticks=[], yticks=[], frame_on=False)
    if image is not None:
        axis.imshow(as_pixels(image), cmap="gray", vmin=0, vmax=255)


def cut_grid(grid: Image.Image, height: int, width: int) -> list[np.ndarray]:
    """The images of a grid without gaps, such as the trainer's samples, row by row: arrays (height, width, C).

    Raises:
        ValueError: if it cannot be a grid of images of this height and width.
    """
    pixels = np.asarray(grid)
    if pixels.shape[0] % height or pixels.shape[1] % width:
        raise ValueError(
            f"A grid of {grid.width}×{grid.height} pixels holds no images of {width}×{height}: name the model that generated it."
        )
    tops, lefts = range(0, pixels.shape[0], height), range(0, pixels.shape[1], width)
    return [pixels[top : top + height, left : left + width] for top in tops for left in lefts]


def dataset(images: Sequence, columns: int = 8) -> Figure:
    """Draws images of a data set in a grid, row by row."""
    return image_grid([images[i : i + columns] for i in range(0, len(images), columns)])


def as_pixels(image) -> np.ndarray:
    """Converts an image to a uint8 array, (H, W, 3) or, if it is grey, (H, W)."""
    array = np.asarray(image)
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
