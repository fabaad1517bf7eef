"""Pictures from a Hub data set, Parquet files or an image folder, decoded once into one array, and batches of them."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image, load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
from PIL import Image as PILImage
from PIL import ImageOps


def open_dataset(
    dataset_name: str | None = None, data_dir: str | None = None, cache_dir: str | None = None, split: str = "train"
) -> Dataset:
    """Opens one split of a Hub data set (`dataset_name`) or of a local folder of Parquet files or pictures (`data_dir`).

    Raises:
        ValueError: if not exactly one source is given, or there is no such split or no image column.
        FileNotFoundError: if the folder or the data set does not exist or holds no data.
    """
    if (dataset_name is None) == (data_dir is None):
        raise ValueError("Give the pictures either as `dataset_name` (on the Hub) or as `train_data_dir` (a folder).")
    source = dataset_name or data_dir
    if data_dir is not None and not Path(data_dir).is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir}: `train_data_dir` must name a folder of pictures.")
    try:
        splits = load_dataset(source, cache_dir=cache_dir)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(f"There is no data set {source!r} on the Hub that you can read.") from error
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        raise FileNotFoundError(f"{source} holds no pictures: it needs image or Parquet files.") from error
    return _pick_split(splits, split, source)


def _pick_split(splits: DatasetDict, split: str, source: str) -> Dataset:
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(splits)}.")
    dataset = splits[split]
    image_column(dataset)
    if len(dataset) == 0:
        raise FileNotFoundError(f"The split {split!r} of {source} is empty.")
    return dataset


def image_column(dataset: Dataset) -> str:
    """Name of the first column that holds images."""
    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            return name
    raise ValueError(
        f"The data set has no image column, only {', '.join(dataset.features)}: store pictures with the `datasets.Image` "
        "feature."
    )


def fit_image(image: PILImage.Image, resolution: int, center_crop: bool = True) -> PILImage.Image:
    """Turns any picture into an RGB one of `resolution`² pixels, cut to its central square first unless told to squeeze it.

    Antialiased (Pillow's bilinear filter grows with the reduction).
    """
    image = ImageOps.exif_transpose(image).convert("RGB")
    if center_crop:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), PILImage.Resampling.BILINEAR)
    return image


def decode_images(dataset: Dataset, resolution: int, center_crop: bool = True) -> np.ndarray:
    """Decodes all pictures into one uint8 array of shape (N, resolution, resolution, 3)."""
    column = image_column(dataset)
    images = np.empty((len(dataset), resolution, resolution, 3), dtype=np.uint8)
    for i, row in enumerate(dataset.select_columns(column)):
        images[i] = np.asarray(fit_image(row[column], resolution, center_crop))
    return images


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel of uint8 images (N, H, W, C), as fractions of 255.

    One pass, accumulated in integers, so the result does not depend on the order.
    """
    count = images[..., 0].size
    sums = np.zeros(images.shape[-1], dtype=np.int64)
    squares = np.zeros(images.shape[-1], dtype=np.int64)
    for image in images:
        pixels = image.reshape(-1, images.shape[-1]).astype(np.int64)
        sums += pixels.sum(0)
        squares += (pixels**2).sum(0)
    mean = sums / count
    std = np.sqrt(squares / count - mean**2)
    return (mean / 255).tolist(), (std / 255).tolist()


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream is a function of integers, such as (seed, purpose, step), and of nothing else."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


class BatchSampler:
    """Which pictures make up the global batch of a training step, as a function of (seed, step) alone.

    Every pass visits the pictures in a new order; the last partial batch is dropped. A resumed run and a run on another number of
    processes therefore see the same batches.
    """

    _PURPOSE = 0  # keeps this stream apart from others made of the same seed

    def __init__(self, num_images: int, batch_size: int, seed: int):
        if num_images < batch_size:
            raise ValueError(
                f"There are only {num_images} pictures, fewer than one batch of {batch_size}: lower `train_batch_size`."
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.batches_per_pass = num_images // batch_size
        self._pass, self._order = -1, None

    def __call__(self, step: int) -> torch.Tensor:
        """Indices of the pictures of step `step` (counted from 0), shape (batch_size,)."""
        current_pass, position = divmod(step, self.batches_per_pass)
        if current_pass != self._pass:
            generator = seeded_generator(self.seed, self._PURPOSE, current_pass)
            self._pass, self._order = current_pass, torch.randperm(self.num_images, generator=generator)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]
