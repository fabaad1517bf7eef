"""Opens pictures: a data set on the Hub, Parquet files, or a folder of pictures; finds splits and the image column."""

import logging
from pathlib import Path

import torch
from datasets import Dataset, Image, IterableDataset, load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from pyarrow import ArrowInvalid

from ..sampling.seeds import Purpose, seeded_generator


logger = logging.getLogger(__name__)

# Names that the folder of a split may have, in a folder of pictures.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


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
    """Opens all splits of a data set, by name; arguments and errors are those of [`open_dataset`]."""
    if (dataset_name is None) == (data_dir is None):
        raise ValueError("Give the pictures either as `dataset_name` (on the Hub) or as `train_data_dir` (a folder).")
    source = dataset_name or data_dir
    if data_dir is not None and not Path(data_dir).is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir}: name one of pictures or Parquet files.")
    try:
        if data_dir is not None and (files := _picture_files(Path(data_dir))):
            folder = {"data_dir": str(Path(data_dir).resolve()), "data_files": files}
            return load_dataset("imagefolder", cache_dir=cache_dir, streaming=streaming, **folder)
        source = dataset_name or str(Path(data_dir).resolve())  # a relative name could be that of a kind of data
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
    """The files of every split of a folder of pictures; `None` for a folder of Parquet or other files.

    On its own, `datasets` takes every "train" or "test" in the name of a file for a split, and then leaves out all files
    without one. Here only folders at the top are splits, and only if one of them is for training.
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
    """Sets a part of `train` aside for validation; the seed and the number of pictures decide which part."""
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
