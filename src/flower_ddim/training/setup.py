"""What a training run is put together from: processes, network and scheduler, as its options say."""

import copy
import importlib.util
import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    TorchDynamoPlugin,
)
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from ..machine import usable_cores, warn_of_emulated_bfloat16
from ..models.unet_flower_ddim import FlowerUNet2DModel
from ..pipelines.loading import check_schedule, is_student
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..sampling.compilation import check_compiler
from ..schedulers.scheduling_flower_ddim import FlowerDDIMScheduler
from .config import OF_NETWORKS, TrainingConfig
from .distillation import make_student
from .growth import zero_init_levels
from .messages import main_process_logger
from .pictures import Pictures
from .resuming import recorded_options
from .stopping import PROCESS_GROUP_TIMEOUT


logger = main_process_logger(__name__)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """The processes, devices and precision of a run.

    Raises:
        ValueError: for options that this machine or these processes cannot serve.
    """
    if config.logger and importlib.util.find_spec(config.logger) is None:
        raise ValueError(f"`logger` {config.logger} is not installed: pip install {config.logger}.")
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started == 1:
        # accelerate keeps precision and compiler of the first run of a process, a notebook's say, for all later ones.
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        # Every size of pictures is compiled on its own, which makes faster code than one for all sizes.
        dynamo_plugin=TorchDynamoPlugin(backend="inductor", dynamic=False) if config.compile else None,
        log_with=config.logger,
        project_config=ProjectConfiguration(logging_dir=str(Path(config.output_dir) / config.logging_dir)),
        # BatchNorm statistics are averaged over the processes after every step, see `share_statistics`.
        # Levels that a network has not grown yet have no gradients.
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False, find_unused_parameters=config.growth_steps is not None
            ),
            InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT),
        ],
    )
    if accelerator.num_processes < started:
        raise ValueError(
            f"{started} processes started, but each would train alone: on CPUs write `ACCELERATE_USE_CPU=true torchrun ...`."
        )
    device = accelerator.device.type
    if config.compile and device == "cpu":
        check_compiler()
    if config.optimizer == "muon" and accelerator.mixed_precision == "fp16":
        # The scale of the gradients is kept for one optimizer.
        raise ValueError("`optimizer` muon does not go with `mixed_precision` fp16: choose bf16.")
    if config.sync_batchnorm and device != "cuda":
        raise ValueError(f"`sync_batchnorm` needs GPUs, but this runs on {device}: leave it out.")
    if device == "cpu":
        check_threads(accelerator.num_processes)
    if accelerator.is_main_process:
        warn_of_emulated_bfloat16(accelerator.mixed_precision, device)
        world, batch, passes = accelerator.num_processes, config.train_batch_size, config.gradient_accumulation_steps
        logger.info(
            f"{world * batch * passes} pictures a step: {world} processes × {batch} × {passes} forward passes."
        )
    return accelerator


def place_network(unet: torch.nn.Module, config: TrainingConfig, accelerator: Accelerator) -> torch.nn.Module:
    """Puts a network where and how it is trained."""
    unet = unet.to(accelerator.device)
    if config.channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(unet) if config.sync_batchnorm else unet


def build_model(
    config: TrainingConfig, pictures: Pictures, teacher: FlowerDDIMPipeline | None = None
) -> tuple[torch.nn.Module, FlowerDDIMScheduler]:
    """The U-Net and the scheduler of a run.

    A new network takes the channel statistics of the pictures. One that is trained further (`init_from`), and a student of a
    teacher, keep those that their weights know.

    Raises:
        ValueError: if pictures, network, schedule and options do not fit together, naming the option.
    """
    channels = pictures.channels
    if teacher:
        unet, scheduler = make_student(teacher, config)
        _check_channels(unet, channels)
        return unet, scheduler
    if config.init_from:
        pipe = FlowerDDIMPipeline.from_pretrained(config.init_from)
        if is_student(pipe.unet):
            raise ValueError(
                f"`init_from` {config.init_from} is a student, for few steps only: name its teacher, or distil it with `--teacher`."
            )
        unet = _with_classes(pipe.unet, pictures.class_names)
        own = {name: unet.config.get(name, 0.5) for name in ("image_mean", "image_std")}
        logger.warning(f"The training keeps the channel statistics of {config.init_from}: {own}.")
        height, width = pipe.latent_shape[1:]
        if (height, width) != (config.resolution,) * 2:
            logger.warning(
                f"{config.init_from} made pictures of {width}×{height} pixels; the training goes on with `resolution`."
            )
        statistics = {}
        scheduler = FlowerDDIMScheduler.from_config(pipe.scheduler.config)
    else:
        statistics = {"image_mean": pictures.mean, "image_std": pictures.std}
        unet = _new_unet(config, channels, statistics, pictures.class_names)
        scheduler = None
    _check_channels(unet, channels)
    # A network of three channels is given grey pictures as coloured ones.
    statistics = {name: values * (unet.config.out_channels // len(values)) for name, values in statistics.items()}
    unet.register_to_config(sample_size=config.resolution, **statistics)
    if isinstance(unet, FlowerUNet2DModel):
        unet.check_config()
        zero_init_levels(unet, len(config.growth_steps or []))
    elif config.growth_steps:
        raise ValueError("`growth_steps` needs a FlowerUNet2DModel, which a stock UNet2DModel is not: leave it out.")
    if scheduler is None:
        names = ("schedule", "min_signal_rate", "max_signal_rate", "num_train_timesteps")
        shared = {name: unet.config[name] for name in names if unet.config.get(name) is not None}
        if config.schedule:
            shared.setdefault("schedule", config.schedule)
        scheduler = FlowerDDIMScheduler(prediction_type=config.prediction_type or "epsilon", **shared)
    check_schedule(unet, scheduler)  # or it would be refused at the first samples
    for name in ("schedule", "prediction_type"):
        asked, given = getattr(config, name), scheduler.config[name]
        if asked and asked != given:
            raise ValueError(f"`{name}` is {asked}, but the network was made for {given}: take that, or leave it out.")
    return unet, scheduler


def _check_channels(unet: torch.nn.Module, channels: int):
    if unet.config.in_channels != unet.config.out_channels or channels not in (1, unet.config.in_channels):
        raise ValueError(
            f"The pictures have {channels} channels, but the network has {unet.config.in_channels} and gives "
            f"{unet.config.out_channels}: take one that is made for such pictures."
        )


def _with_classes(unet: torch.nn.Module, names: list[str] | None) -> torch.nn.Module:
    """A network that goes on learning, of these classes. What is new in it changes no prediction at first."""
    own = unet.config.get("class_names")
    if names == own and (names is None) == (unet.config.get("num_class_embeds") is None):
        return unet
    if names is None:
        raise ValueError("The network of `init_from` knows classes: give `--class_conditional`, too.")
    _check_knows_classes(unet)
    classes = {"num_class_embeds": len(names), "class_names": names}
    new = FlowerUNet2DModel.from_config(unet.config, **classes)
    weights = unet.state_dict()
    if (rows := weights.pop("class_embedding.weight", None)) is not None:
        logger.warning(
            "The classes of `init_from` are others than those here, so every class begins as its null class."
        )
        weights["class_embedding.weight"] = rows[-1:].repeat(len(names) + 1, 1)
    new.load_state_dict(weights, strict=False)
    return new


def _check_knows_classes(unet: torch.nn.Module):
    if not isinstance(unet, FlowerUNet2DModel):
        raise ValueError("`class_conditional` needs a FlowerUNet2DModel: a stock UNet2DModel has no null class.")


def _new_unet(
    config: TrainingConfig, channels: int, statistics: dict, class_names: list[str] | None
) -> torch.nn.Module:
    classes = {"num_class_embeds": len(class_names), "class_names": class_names} if class_names else {}
    if config.model_config_name_or_path is None:
        given = {name: getattr(config, name) for name in (*OF_NETWORKS, "schedule")}
        given = {name: value for name, value in given.items() if value is not None}
        return FlowerUNet2DModel(
            sample_size=config.resolution,
            in_channels=channels,
            out_channels=channels,
            **statistics,
            **classes,
            **given,
        )
    model_config = FlowerUNet2DModel.load_config(config.model_config_name_or_path)
    architectures = {cls.__name__: cls for cls in (FlowerUNet2DModel, UNet2DModel)}
    name = model_config.get("_class_name")
    if name not in architectures:
        raise ValueError(f"`model_config_name_or_path` is of a {name}, but must be of a {' or '.join(architectures)}.")
    unet = architectures[name].from_config(model_config, **classes)
    if class_names:
        _check_knows_classes(unet)
    return unet


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
    begins_untrained = not (config.init_from or config.teacher)
    if config.use_ema and config.ema_power is None and begins_untrained and untrained > 0.05:
        logger.warning(
            f"After {whole_steps:,} steps the average, which is what will be saved, still holds {untrained:.0%} of the untrained "
            "network: add `--ema_power 1 --ema_inv_gamma 9`, or its pictures will be noise."
        )


def check_threads(num_processes: int):
    """Warns where cores stay idle, as `accelerate launch` leaves them: it gives a process one thread unless told otherwise."""
    cores = usable_cores()
    if torch.get_num_threads() == 1 and cores >= 2 * num_processes:
        share = cores // num_processes
        launched = any(name.startswith(("ACCELERATE_", "TORCHELASTIC_")) for name in os.environ)
        remedy = f"give `accelerate launch` the option `--num_cpu_threads_per_process {share}`, or start without it"
        remedy = remedy if launched else f"set OMP_NUM_THREADS={share}, unless another program needs the others"
        logger.warning(f"Every process computes in one thread, with {cores} cores for {num_processes}: {remedy}.")


def describe(
    config: TrainingConfig, unet: torch.nn.Module, pictures: Pictures, total_steps: int, global_batch: int
) -> dict:
    """What `training.yaml` records: the resolved options without the token, the size of the task, and the pictures."""
    options = recorded_options(config)
    sample = torch.zeros(1, unet.config.in_channels, config.resolution, config.resolution, device=unet.device)
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
    # A dry run has decoded some of them only, and a stream none.
    decoded = pictures.train and not config.dry_run
    return {"options": options, "size": size} | ({"pictures": pictures.summary} if decoded else {})
