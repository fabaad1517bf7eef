"""Opens pictures: a data set on the Hub, Parquet files, or a folder of pictures; finds the image column."""

import glob
from pathlib import Path

import torch
from datasets import Dataset, Image, IterableDataset, load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError
from pyarrow import ArrowInvalid

from ..sampling.seeds import Purpose, seeded_generator
from .folders import list_files, parquet_files, picture_files, suffixes
from .local_files import dataset_of_parquet, dataset_of_pictures


def open_dataset(
    dataset_name: str | None = None,
    data_dir: str | None = None,
    split: str = "train",
    config_name: str | None = None,
    cache_dir: str | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Opens one split of a data set on the Hub (`dataset_name`), or of a folder of Parquet files or pictures (either option).

    Raises:
        ValueError: if not exactly one source is given, there is no such split or no image column, or the files are damaged.
        FileNotFoundError: if the folder or the data set does not exist or holds no data.
    """
    splits = open_splits(dataset_name, data_dir, config_name, cache_dir, streaming)
    source = dataset_name or data_dir
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}: choose one of {', '.join(splits)}.")
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
    is_folder = Path(source).is_dir()
    if data_dir is not None and not is_folder:
        raise FileNotFoundError(f"There is no folder {data_dir}: name one of pictures or Parquet files.")
    try:
        if is_folder:
            return _open_folder(Path(source).resolve(), config_name, cache_dir, streaming)
        return load_dataset(source, config_name, cache_dir=cache_dir, streaming=streaming)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"There is no data set {source!r} on the Hub that you can read: check the name, or log in with `hf auth login`."
        ) from error
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        raise FileNotFoundError(f"{source} holds no pictures: it needs image or Parquet files.") from error
    except (DatasetGenerationError, ArrowInvalid) as error:
        raise ValueError(
            f"{source} cannot be read ({error.__cause__ or error}): copy or download it again."
        ) from error


def _open_folder(
    folder: Path, config_name: str | None, cache_dir: str | None, streaming: bool
) -> dict[str, Dataset | IterableDataset]:
    """Opens all splits of a folder of pictures or Parquet files; what else there is, `datasets` may know how to read."""
    files = list_files(folder)
    options = {"cache_dir": cache_dir, "streaming": streaming}
    if config_name is None and (pictures := picture_files(folder, files)):
        return {split: dataset_of_pictures(classes, **options) for split, classes in pictures.items()}
    has_configurations = config_name is not None or _lists_configurations(folder)
    if not has_configurations and (tables := parquet_files(folder, files)):
        return {split: dataset_of_parquet(paths, **options) for split, paths in tables.items()}
    if not files:
        raise FileNotFoundError(f"{folder} holds no pictures: it needs image or Parquet files.")
    if glob.has_magic(str(folder)) or "::" in str(folder):
        raise ValueError(
            f"{folder} holds neither pictures nor plain Parquet files, and others are not found in a folder with *, ?, [ or :: in "
            "its path: rename it."
        )
    try:
        return load_dataset(str(folder), config_name, **options)
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        raise FileNotFoundError(
            f"{folder} holds no pictures that can be read here, but {suffixes(files)}: save them as JPEG or PNG."
        ) from error


def _lists_configurations(folder: Path) -> bool:
    """Whether a data set says itself which files belong to which of its configurations, in the head of its README.md."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0] if card.is_file() else ""
    return head.startswith("---") and "\nconfigs:" in head


def split_train_validation(train: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Sets a part of `train` aside for validation; the seed and the number of pictures decide which part.

    Raises:
        ValueError: for a single picture.
    """
    if len(train) < 2:
        raise ValueError("A single picture cannot be divided: give `--validation_epochs 0` to train on all there is.")
    order = torch.randperm(len(train), generator=seeded_generator(seed, Purpose.SPLITTING)).tolist()
    count = min(max(1, round(fraction * len(train))), len(train) - 1)
    return train.select(sorted(order[count:])), train.select(sorted(order[:count]))


def image_column(dataset: Dataset | IterableDataset) -> str:
    """Name of the first column that holds images; a ValueError if there is none."""
    features = dataset.features or {}
    for name, feature in features.items():
        if isinstance(feature, Image):
            return name
    raise ValueError(
        f"The data set has no image column, only {', '.join(features) or 'none'}: store pictures with the `datasets.Image` "
        "feature."
    )
