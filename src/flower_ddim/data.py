"""Pictures from a Hub data set, Parquet files or an image folder, decoded once into uint8 pixels, and batches of them."""

import io
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import psutil
import torch
from datasets import Dataset, Features, Image, IterableDataset, Value, load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.distributed import split_dataset_by_node
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from PIL import Image as PILImage
from pyarrow import ArrowInvalid

from .images import upright_rgb
from .seeds import Purpose, seeded_generator


logger = logging.getLogger(__name__)

# Part of the key under which `datasets` keeps decoded pixels; to be raised whenever decoding makes other pixels.
PIXELS_VERSION = 1

# What the folder of a split may be called, in a folder of pictures.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}

STREAMING_SHUFFLE_BUFFER = 1024  # pictures; also how many the channel statistics of a streamed data set are taken from


def open_dataset(
    dataset_name: str | None = None,
    data_dir: str | None = None,
    split: str = "train",
    config_name: str | None = None,
    cache_dir: str | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Opens one split of a Hub data set (`dataset_name`) or of a local folder of Parquet files or pictures (`data_dir`).

    Raises:
        ValueError: if not exactly one source is given, or there is no such split or no image column.
        FileNotFoundError: if the folder or the data set does not exist or holds no data.
    """
    splits = open_splits(dataset_name, data_dir, config_name, cache_dir, streaming)
    source = dataset_name or data_dir
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(splits)}.")
    image_column(splits[split])
    return splits[split]


def open_splits(
    dataset_name: str | None = None,
    data_dir: str | None = None,
    config_name: str | None = None,
    cache_dir: str | None = None,
    streaming: bool = False,
) -> dict[str, Dataset | IterableDataset]:
    """All splits of a data set by name; arguments and errors are those of [`open_dataset`]."""
    if (dataset_name is None) == (data_dir is None):
        raise ValueError("Give the pictures either as `dataset_name` (on the Hub) or as `train_data_dir` (a folder).")
    source = dataset_name or data_dir
    if data_dir is not None and not Path(data_dir).is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir}: name one of pictures or Parquet files.")
    try:
        if data_dir is not None and (files := _picture_files(Path(data_dir))):
            folder = {"data_dir": str(Path(data_dir).resolve()), "data_files": files}
            return load_dataset("imagefolder", cache_dir=cache_dir, streaming=streaming, **folder)
        source = dataset_name or str(Path(data_dir).resolve())  # or a folder's name could be that of a kind of data
        return load_dataset(source, config_name, cache_dir=cache_dir, streaming=streaming)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(f"There is no data set {source!r} on the Hub that you can read.") from error
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        raise FileNotFoundError(f"{source} holds no pictures: it needs image or Parquet files.") from error
    except (DatasetGenerationError, ArrowInvalid) as error:
        raise ValueError(
            f"{source} cannot be read ({error.__cause__ or error}): copy or download it again."
        ) from error


def _picture_files(folder: Path) -> dict[str, str] | None:
    """Which files make up which split of a folder of pictures; `None` if it is one of Parquet or other files.

    Left to itself `datasets` takes every "train" or "test" in the name of a file for that of a split, and then leaves out
    the files without one. Here only folders at the top are splits, and only where one of them is for training.
    """
    files = [file.relative_to(folder) for file in folder.rglob("*")]
    pictures = [file for file in files if file.suffix.lower() in ImageFolder.EXTENSIONS]
    if not pictures or any(file.suffix == ".parquet" and file.name != "metadata.parquet" for file in files):
        return None
    tops = {picture.parts[0].lower(): picture.parts[0] for picture in pictures if len(picture.parts) > 1}
    splits = {split: next((tops[n] for n in known_as if n in tops), None) for split, known_as in SPLITS.items()}
    if splits["train"] is None:
        return {"train": "**"}
    return {split: f"{top}/**" for split, top in splits.items() if top}


def split_train_validation(train: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Sets a part of `train` aside for validation; which part is a function of the seed and the number of pictures."""
    if len(train) < 2:
        raise ValueError("A single picture cannot be divided: give `--validation_epochs 0` to train on all there is.")
    order = torch.randperm(len(train), generator=seeded_generator(seed, Purpose.SPLITTING)).tolist()
    count = min(max(1, round(fraction * len(train))), len(train) - 1)
    return train.select(sorted(order[count:])), train.select(sorted(order[:count]))


def image_column(dataset: Dataset | IterableDataset) -> str:
    """Name of the first column that holds images."""
    features = dataset.features or {}
    for name, feature in features.items():
        if isinstance(feature, Image):
            return name
    raise ValueError(
        f"The data set has no image column, only {', '.join(features) or 'none'}: store pictures with the `datasets.Image` "
        "feature."
    )


def fit_image(image: PILImage.Image, resolution: int, center_crop: bool = True) -> PILImage.Image:
    """Turns any picture into an RGB one of `resolution`² pixels, cut to its central square first unless told to squeeze it.

    Antialiased (Pillow's bilinear filter grows with the reduction).
    """
    image = upright_rgb(image)
    if center_crop:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), PILImage.Resampling.BILINEAR)
    return image


def _decode_batch(
    rows: dict[str, list], column: str, resolution: int, center_crop: bool, version: int = PIXELS_VERSION
) -> dict[str, list]:
    """Pixels of encoded pictures, and of those that cannot be decoded the reason; a function for `datasets.map`.

    `version` does nothing but tell `datasets`, which does not look into what a function calls, that an older cache is of no use.
    """
    decoded = {"pixels": [], "problem": []}
    for encoded in rows[column]:
        pixels, problem = b"", None
        try:
            data = encoded["bytes"]
            if data is None:
                with fsspec.open(
                    encoded["path"], "rb"
                ) as file:  # a local path, or an address on the Hub when streaming
                    data = file.read()
            with PILImage.open(io.BytesIO(data)) as image:
                pixels = fit_image(image, resolution, center_crop).tobytes()
        except Exception as error:  # Pillow's decoders raise whatever their format suggests
            name = encoded["path"] if encoded and encoded["path"] else "a picture without a file name"
            problem = f"{name} ({error})"
        decoded["pixels"].append(pixels)
        decoded["problem"].append(problem)
    return decoded


def decode_images(
    dataset: Dataset, resolution: int, center_crop: bool = True, num_workers: int = 0, cache: str = "memory"
) -> "ImageArray":
    """Decodes all pictures, once: the pixels go to the cache of `datasets`, where a second call finds them.

    Pictures that cannot be decoded are reported by name and left out.

    Args:
        num_workers: processes that decode; 0 is this one.
        cache: where the pixels are read from, see [`ImageArray`].

    Raises:
        ValueError: if not a single picture can be decoded.
    """
    column = image_column(dataset)
    decoded = dataset.cast_column(column, Image(decode=False)).map(
        _decode_batch,
        batched=True,
        batch_size=64,
        fn_kwargs={"column": column, "resolution": resolution, "center_crop": center_crop, "version": PIXELS_VERSION},
        remove_columns=dataset.column_names,
        features=Features({"pixels": Value("binary"), "problem": Value("string")}),
        num_proc=num_workers or None,
        desc="decoding pictures",
    )
    problems = [problem for problem in decoded["problem"] if problem]
    if problems:
        logger.warning(
            f"{len(problems)} of {len(dataset)} pictures cannot be read and are skipped: {', '.join(problems)}"
        )
        if len(problems) == len(dataset):
            raise ValueError(f"None of the {len(dataset)} pictures can be read, first {problems[0]}.")
        decoded = decoded.filter(lambda problem: problem is None, input_columns="problem").flatten_indices()
    return ImageArray(decoded, resolution, cache)


class ImageArray:
    """Decoded pictures, indexed by arrays of positions: `images[indices]` is uint8 (B, H, W, C).

    C is 1 where every picture is grey, else 3.

    Args:
        cache: `"memory"`, `"disk"` (memory-mapped) or `"auto"`: memory where the pixels fill less than half of what is free.
    """

    def __init__(self, decoded: Dataset, resolution: int, cache: str = "memory"):
        self.chunks = [_chunk_pixels(chunk, resolution) for chunk in decoded.data.column("pixels").chunks]
        self.is_grey = all((c[..., :1] == c).all() for c in self._parts())
        in_memory = cache == "memory" or (
            cache == "auto" and sum(c.nbytes for c in self.chunks) < psutil.virtual_memory().available / 2
        )
        if in_memory:
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
        """All pixels, some pictures at a time, so that no more than these are in memory."""
        for chunk in self.chunks:
            for start in range(0, len(chunk), 256):
                yield chunk[start : start + 256]

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every channel, as fractions of 255."""
        return channel_statistics(part[..., : self.channels] for part in self._parts())


def _chunk_pixels(chunk, resolution: int) -> np.ndarray:
    """The pixels of an Arrow binary array as (N, H, W, 3), without a copy; the buffer may belong to a longer array."""
    _, offsets, data = chunk.buffers()
    start = int(np.frombuffer(offsets, dtype=np.int32)[chunk.offset])
    pixels = np.frombuffer(data, dtype=np.uint8, count=len(chunk) * resolution**2 * 3, offset=start)
    return pixels.reshape(-1, resolution, resolution, 3)


def channel_statistics(parts) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel of uint8 images, given as arrays (N, H, W, C), as fractions of 255.

    One pass, accumulated in integers, so the result does not depend on order or division.
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
            "A channel has the same value in all pixels of all pictures: there is nothing to learn from them."
        )
    return (mean / 255).tolist(), (std / 255).tolist()


class BatchSampler:
    """Which pictures make up the global batch of an optimizer step, as a function of (seed, step) alone.

    An epoch is `repeats` passes one after the other, each in a new order, cut into batches; the last partial batch is dropped.
    A resumed run and a run on another number of processes therefore see the same batches.
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
        self._epoch, self._order = -1, None

    def __call__(self, step: int) -> torch.Tensor:
        """Indices of the pictures of step `step` (counted from 0), shape (batch_size,)."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            passes = range(epoch * self.repeats, (epoch + 1) * self.repeats)
            generators = [seeded_generator(self.seed, Purpose.ORDER, number) for number in passes]
            self._epoch = epoch
            self._order = torch.cat([torch.randperm(self.num_images, generator=generator) for generator in generators])
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


class StreamedImages:
    """An endless stream of decoded pictures of one process's share of a data set, shuffled within a buffer."""

    def __init__(self, dataset: IterableDataset, resolution: int, center_crop: bool, seed: int, rank: int, world: int):
        self.column = image_column(dataset)
        self.resolution = resolution
        self.center_crop = center_crop
        self.dataset = dataset.cast_column(self.column, Image(decode=False))
        self.shuffled = split_dataset_by_node(self.dataset, rank, world).shuffle(
            seed=seed, buffer_size=STREAMING_SHUFFLE_BUFFER
        )
        first = list(itertools.islice(self._decoded(self.dataset), STREAMING_SHUFFLE_BUFFER))
        if not first:
            raise ValueError("The data set holds no picture that can be read.")
        first = np.stack(first)
        self.channels = 1 if (first[..., :1] == first).all() else 3
        self.statistics = channel_statistics([first[..., : self.channels]])
        self._endless = self._repeat()

    def next_batch(self, size: int) -> np.ndarray:
        """The next `size` pictures, uint8 (size, H, W, C).

        Raises:
            ValueError: if a coloured one comes after a beginning of grey ones.
        """
        pictures = np.stack([next(self._endless) for _ in range(size)])
        if self.channels == 1 and (pictures[..., :1] != pictures).any():
            raise ValueError(
                f"The first {STREAMING_SHUFFLE_BUFFER} pictures of the stream are grey, but there are coloured ones later: shuffle "
                "the files, or take one kind out."
            )
        return pictures[..., : self.channels]

    def _repeat(self) -> Iterator[np.ndarray]:
        current_pass = 0
        while True:
            self.shuffled.set_epoch(current_pass)
            count = 0
            for count, pixels in enumerate(self._decoded(self.shuffled), start=1):  # noqa: B007
                yield pixels
            if count == 0:
                raise ValueError(
                    "The stream holds no picture that can be read, or fewer files than there are processes."
                )
            current_pass += 1

    def _decoded(self, dataset: IterableDataset) -> Iterator[np.ndarray]:
        for row in dataset:
            decoded = _decode_batch({self.column: [row[self.column]]}, self.column, self.resolution, self.center_crop)
            if decoded["problem"][0]:
                logger.warning(f"A picture cannot be read and is skipped: {decoded['problem'][0]}")
            else:
                shape = (self.resolution, self.resolution, 3)
                yield np.frombuffer(decoded["pixels"][0], dtype=np.uint8).reshape(shape)
