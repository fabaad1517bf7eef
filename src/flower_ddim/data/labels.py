"""The classes of pictures: finds the column that tells them, their names, and the index of every picture."""

import numpy as np
from datasets import ClassLabel, Dataset, Image, IterableDataset, Value

from .sources import image_column


MAX_CLASSES = 10_000  # more different strings than these are captions or file names


def find_label_column(dataset: Dataset | IterableDataset, name: str | None = None) -> str:
    """Name of the column of classes: `name`, or the only one of `datasets.ClassLabel`.

    Raises:
        ValueError: if there is no such column, or more than one, or it holds neither classes nor strings.
    """
    features = dataset.features or {}
    if name is not None:
        if name not in features:
            raise ValueError(f"`label_column` is {name}, but the columns are {', '.join(features) or 'unknown'}.")
        if not (isinstance(features[name], ClassLabel) or _is_string(features[name])):
            raise ValueError(
                f"`label_column` {name} holds {features[name]}, but classes are a `datasets.ClassLabel` or strings: "
                "`dataset.cast_column` makes one of numbers."
            )
        return name
    found = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(found) > 1:
        raise ValueError(
            f"There are several columns of classes, {', '.join(found)}: choose one with `--label_column`."
        )
    if not found:
        raise ValueError(
            f"The pictures have no classes, only the columns {', '.join(features) or 'unknown'}: sort them into a folder for each "
            "class, or name a column of strings with `--label_column`."
        )
    return found[0]


def class_names(dataset: Dataset | IterableDataset, column: str) -> list[str]:
    """The names of the classes, in the order of their indices; those of strings are sorted.

    Raises:
        ValueError: if they are fewer than two or more than `MAX_CLASSES`, or the strings of a stream.
    """
    if isinstance(dataset.features[column], ClassLabel):
        names = list(dataset.features[column].names)
    elif isinstance(dataset, IterableDataset):
        raise ValueError(f"`streaming` must know all classes at first: make {column} a `datasets.ClassLabel`.")
    else:
        names = sorted(set(dataset.unique(column)) - {None, ""})
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ValueError(
            f"`class_conditional` needs from 2 to {MAX_CLASSES:,} classes, but column {column} has {len(names)}: name another "
            "column with `--label_column`."
        )
    return names


def class_indices(dataset: Dataset, column: str, names: list[str]) -> np.ndarray:
    """The index in `names` of the class of every picture, int64 (N,); -1 for a class that is not among them.

    Raises:
        ValueError: for a picture without a class, naming the first.
    """
    index = {name: i for i, name in enumerate(names)}
    feature, values = dataset.features[column], list(dataset[column])
    without = next((i for i, value in enumerate(values) if value in (None, "", -1)), None)
    if without is not None:
        image = image_column(dataset)
        encoded = dataset.cast_column(image, Image(decode=False))[without][image]
        raise ValueError(
            f"{encoded['path'] or f'Picture {without}'} has no class: put it into the folder of one, or leave it out."
        )
    if isinstance(feature, ClassLabel):
        values = feature.int2str(values)
    return np.array([index.get(value, -1) for value in values], dtype=np.int64)


def _is_string(feature) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")
