"""What a training run is put together from: pictures and network, as the options say."""

import copy
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from datasets import Dataset, IterableDataset
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from ..data.batches import BatchSampler
from ..data.decoding import decode_images
from ..data.image_array import ImageArray
from ..data.sources import image_column, open_splits, split_train_validation
from ..data.streaming import STREAMING_SHUFFLE_BUFFER, StreamedImages
from ..machine import usable_cores
from ..models.unet_flower_ddim import FlowerUNet2DModel
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..schedulers.scheduling_flower_ddim import FlowerDDIMScheduler
from .config import TrainingConfig


logger = logging.getLogger(__name__)


@dataclass
class Pictures:
    """The pictures of a run: `train` indexed by step through `batches`, or streamed, and those kept for validation."""

    train: ImageArray | None
    validation: ImageArray | None
    stream: StreamedImages | None
    batches: BatchSampler | None
    channels: int
    mean: list[float]
    std: list[float]


def load_pictures(config: TrainingConfig, global_batch: int, rank: int, world: int) -> Pictures:
    """Opens and decodes the pictures. `global_batch` is the number of pictures per optimizer step over all processes."""
    if config.streaming:
        logger.warning(
            f"Streaming: channel statistics come from the first {STREAMING_SHUFFLE_BUFFER} pictures, nothing is set aside, "
            "a resumed run begins the stream anew, and as nothing counts epochs, the pipeline and samples come at the end."
        )
        stream = StreamedImages(
            _open_splits(config)["train"], config.resolution, config.center_crop, config.seed, rank, world
        )
        return Pictures(None, None, stream, None, stream.channels, *stream.statistics)
    train, validation = _divide(config)
    sampling = {"batch_size": global_batch, "seed": config.seed, "repeats": config.dataset_repeats}
    batches = BatchSampler(len(train), **sampling)  # before any work: it may find the data too small

    images = _decode(train, config)
    if len(images) != len(train):
        batches = BatchSampler(len(images), **sampling)
    validation = _decode(validation, config) if validation is not None else None
    if validation is not None and validation.channels > images.channels:
        raise ValueError(
            "The pictures for training are grey, but there are coloured ones among those for validation: take these out, or give "
            "`--validation_epochs 0`."
        )
    return Pictures(images, validation, None, batches, images.channels, *images.channel_statistics())


def pictures_of_training(folder: str | Path) -> tuple[ImageArray, ImageArray, int]:
    """What an earlier training was trained on, what it kept for validation, both as it saw them, and the side in pixels.

    Args:
        folder: its `output_dir`.

    Raises:
        FileNotFoundError: if nothing was trained there.
        ValueError: if it kept no pictures for validation, or its record is of another version.
    """
    path = Path(folder) / "training.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: name the `output_dir` of a training.")
    try:
        config = TrainingConfig(**yaml.safe_load(path.read_text(encoding="utf-8"))["options"])
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{path} was not written by this version of the trainer ({error}).") from error
    if not config.validation_epochs:
        raise ValueError(f"The training of {folder} kept no pictures for validation: give `--data` others.")
    train, validation = _divide(config)
    return _decode(train, config), _decode(validation, config), config.resolution


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


def build_model(
    config: TrainingConfig, channels: int, mean: list[float], std: list[float]
) -> tuple[torch.nn.Module, FlowerDDIMScheduler]:
    """The U-Net and the scheduler of a run.

    A new network takes the channel statistics of the pictures. One that is trained further (`init_from`) keeps its own,
    since its weights know no others.
    """
    if config.init_from:
        pipe = FlowerDDIMPipeline.from_pretrained(config.init_from)
        unet = pipe.unet
        own = {name: unet.config.get(name, 0.5) for name in ("image_mean", "image_std")}
        logger.warning(f"Training goes on with the channel statistics of {config.init_from}: {own}.")
        height, width = pipe.latent_shape[1:]
        if (height, width) != (config.resolution,) * 2:
            logger.warning(f"It made pictures of {width}×{height} pixels; `resolution` is {config.resolution}.")
        statistics = {}
        scheduler = FlowerDDIMScheduler.from_config(pipe.scheduler.config)
    else:
        statistics = {"image_mean": mean, "image_std": std}
        unet = _new_unet(config, channels, statistics)
        scheduler = None
    if unet.config.in_channels != unet.config.out_channels or channels not in (1, unet.config.in_channels):
        raise ValueError(
            f"The pictures have {channels} channels, but the network has {unet.config.in_channels} and gives "
            f"{unet.config.out_channels}: take one that is made for such pictures."
        )
    # A network of three channels is given grey pictures as coloured ones.
    statistics = {name: values * (unet.config.out_channels // len(values)) for name, values in statistics.items()}
    unet.register_to_config(sample_size=config.resolution, **statistics)
    if isinstance(unet, FlowerUNet2DModel):
        unet.check_config()
        silence_levels(unet, len(config.growth_steps or []))
    elif config.growth_steps:
        raise ValueError("`growth_steps` needs a FlowerUNet2DModel, which a stock UNet2DModel is not: leave it out.")
    if scheduler is None:
        names = ("schedule", "min_signal_rate", "max_signal_rate", "num_train_timesteps")
        shared = {name: unet.config[name] for name in names if unet.config.get(name) is not None}
        if config.schedule:
            shared.setdefault("schedule", config.schedule)
        scheduler = FlowerDDIMScheduler(prediction_type=config.prediction_type or "epsilon", **shared)
    for name in ("schedule", "prediction_type"):
        asked, given = getattr(config, name), scheduler.config[name]
        if asked and asked != given:
            raise ValueError(f"`{name}` is {asked}, but the network was made for {given}: take that, or leave it out.")
    return unet, scheduler


def _new_unet(config: TrainingConfig, channels: int, statistics: dict) -> torch.nn.Module:
    if config.model_config_name_or_path is None:
        given = {name: getattr(config, name) for name in ("block_out_channels", "layers_per_block", "schedule")}
        given = {name: value for name, value in given.items() if value is not None}
        return FlowerUNet2DModel(
            sample_size=config.resolution, in_channels=channels, out_channels=channels, **statistics, **given
        )
    model_config = FlowerUNet2DModel.load_config(config.model_config_name_or_path)
    classes = {cls.__name__: cls for cls in (FlowerUNet2DModel, UNet2DModel)}
    name = model_config.get("_class_name")
    if name not in classes:
        raise ValueError(f"`model_config_name_or_path` is of a {name}, but must be of a {' or '.join(classes)}.")
    return classes[name].from_config(model_config)


def silence_levels(unet: FlowerUNet2DModel, number: int):
    """Prepares a new network for being grown from coarse to fine (after Karras et al. 2018 and Gu et al. 2023).

    The residual blocks of the `number` finest levels begin with zero bodies. All that they do is then pointwise and linear, and so
    commutes with average pooling: the levels below meet in a picture what they meet, with `finest_level=number`, in the
    pooled picture. The network can be trained on small pictures, at a fraction of the cost, and what it has learned is of
    use in large ones, at the same place and of the same size within them.

    Raises:
        ValueError: if there are not so many levels above the bottleneck.
    """
    levels = len(unet.down_blocks)
    if number > levels:
        raise ValueError(
            f"`growth_steps` has {number} numbers, but the network has {levels} levels above the coarsest: give fewer numbers."
        )
    for block in (*unet.down_blocks[:number], *unet.up_blocks[levels - number :]):
        for resnet in block.resnets:
            torch.nn.init.zeros_(resnet.conv2.weight)


def check_length(config: TrainingConfig, total_steps: int):
    """Warns where a training is too short for its average.

    Raises:
        ValueError: if the network would not be whole before the training ends.
    """
    whole_steps = total_steps - sum(config.growth_steps or [])
    if whole_steps <= 0:
        raise ValueError(
            f"`growth_steps` leaves nothing of {total_steps:,} steps for the whole network: give smaller numbers."
        )
    untrained = config.ema_max_decay**whole_steps  # of the average, which begins anew whenever the network has grown
    if config.use_ema and config.ema_power is None and not config.init_from and untrained > 0.05:
        logger.warning(
            f"After {whole_steps:,} steps the average, which is what will be saved, still holds {untrained:.0%} of the untrained "
            "network: add `--ema_power 1 --ema_inv_gamma 9`, or its pictures will be noise."
        )


def check_threads(num_processes: int):
    """Warns where cores stay idle, as `accelerate launch` leaves them: it gives a process one thread unless told otherwise."""
    cores = usable_cores()
    if torch.get_num_threads() == 1 and cores >= 2 * num_processes:
        logger.warning(
            f"Every process computes in one thread, with {cores} cores for {num_processes}: start without `accelerate launch`, "
            f"or give it `--num_cpu_threads_per_process {cores // num_processes}` (environment variable OMP_NUM_THREADS)."
        )


def describe(config: TrainingConfig, unet: torch.nn.Module, total_steps: int, global_batch: int) -> str:
    """The resolved options, as YAML without the token, and the size of the task."""
    options = {name: value for name, value in asdict(config).items() if name != "hub_token"}
    sample = torch.zeros(1, unet.config.in_channels, config.resolution, config.resolution)
    counted = copy.deepcopy(unet).eval()  # in training mode a forward pass would leave its mark on the statistics
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        counted(sample, 0)
    size = {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "gflop_per_image_forward": round(counter.get_total_flops() / 1e9, 3),
        "optimizer_steps": total_steps,
        "pictures_per_optimizer_step": global_batch,
        "pictures_seen": total_steps * global_batch,
    }
    return yaml.safe_dump({"options": options, "size": size}, sort_keys=False)
