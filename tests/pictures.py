"""Pictures that tests make."""

import numpy as np
from PIL import Image


def stripes(width, height):
    """A picture whose red channel says the column and whose green channel the row of every pixel."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    array[..., 0], array[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(array)
