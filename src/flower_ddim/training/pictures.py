"""The pictures of a training run, as its options say: opened, divided into two parts, and decoded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset, IterableDataset

from ..data.batches import BatchSampler
from ..data.decoding import decode_images
from ..data.image_array import ImageArray
from ..data.labels import class_indices, class_names, find_label_column
from ..data.sources import image_column, open_splits, split_train_validation
from ..data.streaming import STREAMING_SHUFFLE_BUFFER, StreamedImages
from .config import TrainingConfig
from .messages import main_process_logger


logger = main_process_logger(__name__)


@dataclass
class Pictures:
    """The pictures of a run: `train` indexed by step through `batches`, or streamed, and those kept for validation.

    Where classes are learned, `train_labels` and `validation_labels` are their indices in `class_names`, int64 (N,).
    """

    train: ImageArray | None
    validation: ImageArray | None
    stream: StreamedImages | None
    batches: BatchSampler | None
    channels: int
    mean: list[float]
    std: list[float]
    num_train: int | None = None
    num_validation: int = 0
    class_names: list[str] | None = None
    train_labels: np.ndarray | None = None
    validation_labels: np.ndarray | None = None

    @property
    def summary(self) -> dict:
        """How many they are, unless they are streamed, and the channel statistics, which tell others of the same number."""
        counts = {"train": len(self.train), "validation": len(self.validation or ())}
        return counts | {"mean": self.mean, "std": self.std}


# A dry run decodes so many, to know whether they are coloured.
DRY_RUN_PICTURES = 32


def load_pictures(
    config: TrainingConfig, global_batch: int, rank: int, world: int, known_classes: list[str] | None = None
) -> Pictures:
    """Opens the pictures and decodes them all, or only some for a dry run.

    Args:
        global_batch: pictures in an optimizer step over all processes.
        known_classes: the classes of a teacher, beside which there may be no others.

    Raises:
        FileNotFoundError: if there are no pictures.
        ValueError: if there are too few, or their classes or channels do not fit.
    """
    if config.streaming:
        logger.warning(
            f"Streaming: channel statistics come from the first {STREAMING_SHUFFLE_BUFFER} pictures, nothing is set aside, "
            "a resumed run begins the stream anew, and as nothing counts epochs, the pipeline and samples come at the end."
        )
        train, column, names = _open_splits(config)["train"], None, None
        if config.class_conditional:
            column = find_label_column(train, config.label_column)
            names = class_names(train, column)
            if known_classes and names != known_classes:
                raise ValueError(
                    "`streaming` needs exactly the classes of `teacher`, in their order: train without `--streaming`."
                )
        stream = StreamedImages(train, config.resolution, config.center_crop, config.seed, rank, world, column)
        return Pictures(None, None, stream, None, stream.channels, *stream.statistics, class_names=names)
    train, validation = _divide(config)
    classes = _Classes(train, config.label_column, known_classes) if config.class_conditional else None
    if classes and validation is not None:
        validation = classes.known(validation)
    sampling = {"batch_size": global_batch, "seed": config.seed, "repeats": config.dataset_repeats}
    batches = BatchSampler(len(train), **sampling)  # before any work: it may find the data too small

    sizes = {"num_train": len(train), "num_validation": len(validation or ())}
    if classes:
        sizes["class_names"] = classes.names
    if config.dry_run:
        # From everywhere: the first may be of a kind.
        some = np.linspace(0, len(train) - 1, min(DRY_RUN_PICTURES, len(train))).astype(int)
        images = _decode(train.select(some), config)
        statistics = ([0.5] * images.channels,) * 2  # any will do: those of some pictures are not those of all
        return Pictures(images, None, None, batches, images.channels, *statistics, **sizes)

    images = _decode(train, config)
    if classes:
        sizes["train_labels"] = classes.indices(train)[images.kept]
    if len(images) != len(train):
        batches = BatchSampler(len(images), **sampling)
    if validation is not None:
        held_out, validation = validation, _decode(validation, config)
        if classes:
            sizes["validation_labels"] = classes.indices(held_out)[validation.kept]
    if validation is not None and validation.channels > images.channels:
        raise ValueError(
            "The pictures for training are grey, but there are coloured ones among those for validation: take these out, or give "
            "`--validation_epochs 0`."
        )
    return Pictures(images, validation, None, batches, images.channels, *images.channel_statistics(), **sizes)


class _Classes:
    """The classes of the pictures to train on."""

    def __init__(self, train: Dataset, column: str | None, known: list[str] | None):
        self.column = find_label_column(train, column)
        names = class_names(train, self.column)
        if known and (others := [name for name in names if name not in known]):
            raise ValueError(f"`teacher` does not know the class {others[0]!r} of the pictures: leave those out.")
        self.names = known or names

    def indices(self, pictures: Dataset) -> np.ndarray:
        return class_indices(pictures, self.column, self.names)

    def known(self, validation: Dataset) -> Dataset | None:
        """The pictures for validation whose classes are learned, if any; a warning tells how many are left out."""
        known = np.flatnonzero(self.indices(validation) >= 0)
        if len(known) < len(validation):
            logger.warning(
                f"{len(validation) - len(known)} of {len(validation)} pictures for validation are of classes that those for "
                "training lack, and are left out."
            )
        return validation.select(known) if len(known) else None


def pictures_of_training(folder: str | Path) -> tuple[ImageArray, ImageArray, int]:
    """The pictures that an earlier training saw, those that it kept for validation, and their side in pixels.

    Args:
        folder: its `output_dir`.

    Raises:
        FileNotFoundError: if nothing was trained there.
        ValueError: if it kept no pictures for validation, if they are others by now, or if its record is of another version.
    """
    path = Path(folder) / "training.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: name the `output_dir` of a training.")
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = TrainingConfig(**record["options"])
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} was not written by this version of the trainer ({error}): give the pictures with `--data`."
        ) from error
    if not config.validation_epochs:
        raise ValueError(f"The training of {folder} kept no pictures for validation: give others with `--data`.")
    pictures = load_pictures(config, global_batch=1, rank=0, world=1)
    # One picture more divides them in another way, and a score would be of pictures that the model has seen.
    was, now = record.get("pictures", pictures.summary), pictures.summary
    if was != now:
        counts = "{train} and {validation} for validation"
        raise ValueError(
            f"The pictures of the training of {folder} have changed (they were {counts.format(**was)}, and are "
            f"{counts.format(**now)}): give `--data` some that it has not seen."
        )
    return pictures.train, pictures.validation, config.resolution


def _open_splits(config: TrainingConfig) -> dict[str, Dataset | IterableDataset]:
    splits = open_splits(
        config.dataset_name, config.train_data_dir, config.dataset_config_name, config.cache_dir, config.streaming
    )
    if "train" not in splits:
        raise ValueError(f"The data set has no split 'train', but {', '.join(splits)}: rename the one to train on.")
    image_column(splits["train"])
    return splits


def _divide(config: TrainingConfig) -> tuple[Dataset, Dataset | None]:
    """The pictures to train on, and those for validation, if there are to be any."""
    splits = _open_splits(config)
    if not config.validation_epochs:
        return splits["train"], None
    if config.validation_split in splits:
        return splits["train"], splits[config.validation_split]
    if config.validation_split != TrainingConfig.validation_split:
        raise ValueError(f"`validation_split` is {config.validation_split}, but the splits are {', '.join(splits)}.")
    return split_train_validation(splits["train"], config.validation_fraction, config.seed)


def _decode(pictures: Dataset, config: TrainingConfig) -> ImageArray:
    return decode_images(
        pictures, config.resolution, config.center_crop, config.dataloader_num_workers, config.cache_images
    )
