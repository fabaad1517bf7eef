"""Decodes pictures of any kind to uint8 pixels of one size, once: the cache of `datasets` keeps them."""

import io
import logging

import fsspec
import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from ..pipelines.image_processing import crop_and_resize, upright_rgb
from .image_array import ImageArray
from .picture_files import open_picture
from .sources import image_column


logger = logging.getLogger(__name__)

# Part of the key under which `datasets` keeps decoded pixels. Raise it whenever decoding gives other pixels.
PIXELS_VERSION = 3


def fit_image(image: PILImage.Image, resolution: int, center_crop: bool = True) -> np.ndarray:
    """Resizes the central square of any picture, or squeezes all of it, to RGB pixels (resolution, resolution, 3), uint8.

    They are what `FlowerDDIMPipeline.preprocess` sees, rounded once.
    """
    array = np.asarray(upright_rgb(image), dtype=np.float32) / 255
    return (255 * crop_and_resize(array, resolution, resolution, center_crop)).round().astype(np.uint8)


def open_encoded(encoded: dict) -> PILImage.Image:
    """Opens a picture as a data set stores it without decoding it, in "bytes" or at a "path"; raises what [`open_picture`] raises.

    `datasets` itself would open formats for which Pillow starts other programs.
    """
    data, path = encoded["bytes"], encoded["path"]
    if data is None:
        # An address on the Hub when streaming; a local path may look like a pattern to fsspec.
        with fsspec.open(path, "rb") if "://" in path else open(path, "rb") as file:
            data = file.read()
    return open_picture(io.BytesIO(data))


def decode_batch(
    rows: dict[str, list], column: str, resolution: int, center_crop: bool, version: int = PIXELS_VERSION
) -> dict[str, list]:
    """Decodes pictures to pixels, or says why it cannot; a function for `datasets.map`.

    `version` only changes the key of the cache: `datasets` does not notice a change in what this function calls.
    """
    decoded = {"pixels": [], "problem": []}
    for encoded in rows[column]:
        pixels, problem = b"", None
        try:
            with open_encoded(encoded) as image:
                pixels = fit_image(image, resolution, center_crop).tobytes()
        except Exception as error:  # Pillow's decoders raise whatever their format suggests
            name = encoded["path"] if encoded and encoded["path"] else "a picture without a file name"
            problem = f"{name} ({str(error).rstrip('.')})"
        decoded["pixels"].append(pixels)
        decoded["problem"].append(problem)
    return decoded


def decode_images(
    dataset: Dataset, resolution: int, center_crop: bool = True, num_workers: int = 0, cache: str = "memory"
) -> ImageArray:
    """Decodes all pictures, once: the pixels go to the cache of `datasets`, where a second call finds them.

    Logs the names of pictures that it cannot decode, and leaves them out.

    Args:
        num_workers: number of processes that decode; with 0 this one does.
        cache: where to read the pixels from, see [`ImageArray`].

    Raises:
        ValueError: if not a single picture can be decoded.
    """
    column = image_column(dataset)
    decoded = dataset.cast_column(column, Image(decode=False)).map(
        decode_batch,
        batched=True,
        batch_size=64,
        fn_kwargs={"column": column, "resolution": resolution, "center_crop": center_crop, "version": PIXELS_VERSION},
        remove_columns=dataset.column_names,
        features=Features({"pixels": Value("binary"), "problem": Value("string")}),
        num_proc=num_workers or None,
        desc="decoding pictures",
    )
    problems = list(decoded["problem"])
    kept = [i for i, problem in enumerate(problems) if problem is None]
    problems = [problem for problem in problems if problem]
    if problems:
        names = ", ".join(problems[:3]) + (" and others" if problems[3:] else "")
        logger.warning(
            f"{len(problems)} of {len(dataset)} pictures cannot be read and are skipped: {names}. Save them as JPEG or "
            "PNG to use them."
        )
        if len(problems) == len(dataset):
            raise ValueError(
                f"None of the {len(dataset)} pictures can be read, first {problems[0]}: save them as JPEG or PNG."
            )
        decoded = decoded.select(kept).flatten_indices()
    return ImageArray(decoded, resolution, cache, np.array(kept))
