"""The noise-predicting U-Net of the flower model, with the interface of diffusers' `UNet2DModel`."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput

from ..schedulers.noise_schedules import DiffusionSchedule
from ..storage.safe_loading import ask_for_safetensors, pickle_hint, read_json_object
from .unet_blocks import DownBlock, UpBlock, laid_out_as, residual_block


MIN_FREQUENCY, MAX_FREQUENCY = 1.0, 1000.0

# Beyond every use, but small enough that a damaged configuration is found out before it fills the memory.
MAX_WIDTH, MAX_LAYERS, MAX_STATISTIC = 65_536, 64, 1_000


def noise_embedding(noise_power: torch.Tensor, embedding_dim: int = 32) -> torch.Tensor:
    """Sinusoidal embedding γ(v) = [sin(2π f_k v), cos(2π f_k v)] of the noise power (after Vaswani et al. 2017, section 3.5).

    Args:
        noise_power: variances v in [0, 1], shape (B,), float32 or float64: the highest frequency turns a rounding
            error of half precision into a random phase.
        embedding_dim: even; its half is the number of frequencies f_k, which rise geometrically from 1 to 1,000.

    Returns:
        Tensor of shape (B, embedding_dim) and the dtype of `noise_power`: all sines, then all cosines.
    """
    log_frequencies = torch.linspace(
        math.log(MIN_FREQUENCY),
        math.log(MAX_FREQUENCY),
        embedding_dim // 2,
        dtype=noise_power.dtype,
        device=noise_power.device,
    )
    angles = 2 * math.pi * torch.exp(log_frequencies) * noise_power[:, None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class FlowerUNet2DModel(ModelMixin, ConfigMixin):
    """Predicts the noise in an image from the image and the *power* of that noise (chapter 8 of *Generative Deep Learning*).

    Trained for another `prediction_type` of its scheduler, it predicts that instead.

    The call is that of diffusers' `UNet2DModel`; the noise power is derived from the timestep with the configured
    schedule, in float64 where the device has it.

    Args:
        sample_size: side of the images in pixels, or (height, width); 2 to the number of `block_out_channels` minus one
            must divide it.
        in_channels, out_channels: channels of the noisy image and of the prediction.
        block_out_channels: widths of the resolutions from fine to coarse; the last is the bottleneck.
        layers_per_block: residual blocks at each resolution, on the way down and on the way up.
        noise_embedding_dim: length of the noise embedding, even.
        schedule, min_signal_rate, max_signal_rate, num_train_timesteps: see [`DiffusionSchedule`]; must be those of the
            scheduler that the model is used with.
        image_mean, image_std: statistics of the training images in [0, 1], one number for all channels or one each. They are
            kept here because the weights are of no use without them: image = image_mean + image_std · sample. The
            default maps [-1, 1] to [0, 1], as everywhere in diffusers.

    Raises:
        ValueError: for sizes that do not fit together, naming the argument.
    """

    _supports_gradient_checkpointing = False
    # BatchNorm's running statistics stay in float32 when the weights are loaded in half precision.
    _keep_in_fp32_modules = ["norm"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 64,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: tuple[int, ...] = (32, 64, 96, 128),
        layers_per_block: int = 2,
        noise_embedding_dim: int = 32,
        schedule: str = "offset_cosine",
        min_signal_rate: float = 0.02,
        max_signal_rate: float = 0.95,
        num_train_timesteps: int = 1000,
        image_mean: float | Sequence[float] = 0.5,
        image_std: float | Sequence[float] = 0.5,
    ):
        super().__init__()
        self.check_config()
        self.schedule = DiffusionSchedule(schedule, min_signal_rate, max_signal_rate, num_train_timesteps)

        *widths, bottleneck = block_out_channels
        self.conv_in = nn.Conv2d(in_channels, block_out_channels[0], kernel_size=1)
        # The first residual block, wherever it is, takes in the noise embedding.
        channels, embedding_dim = block_out_channels[0], noise_embedding_dim
        self.down_blocks = nn.ModuleList()
        for width in widths:
            self.down_blocks.append(DownBlock(channels, width, layers_per_block, embedding_dim))
            channels, embedding_dim = width, 0
        self.mid_blocks = nn.ModuleList()
        for _ in range(layers_per_block):
            self.mid_blocks.append(residual_block(channels, bottleneck, embedding_dim))
            channels, embedding_dim = bottleneck, 0
        self.up_blocks = nn.ModuleList()
        for width in reversed(widths):
            self.up_blocks.append(UpBlock(channels, width, width, layers_per_block))
            channels = width
        self.conv_out = nn.Conv2d(channels, out_channels, kernel_size=1)
        self._initialize()

    def check_config(self):
        """Raises a ValueError for sizes in the configuration that do not fit together, naming the argument."""
        config = self.config
        sizes = config.sample_size if isinstance(config.sample_size, (tuple, list)) else (config.sample_size,) * 2
        limits = {"in_channels": MAX_WIDTH, "out_channels": MAX_WIDTH, "layers_per_block": MAX_LAYERS}
        limits |= {"sample_size": MAX_WIDTH, "block_out_channels": MAX_WIDTH, "noise_embedding_dim": MAX_WIDTH}
        for name, limit in limits.items():
            values = config[name] if isinstance(config[name], (tuple, list)) else [config[name]]
            if not all(type(value) is int and 0 <= value <= limit for value in values):
                raise ValueError(f"`{name}` is {config[name]!r}, but must be made of whole numbers up to {limit:,}.")
        if not isinstance(config.block_out_channels, (tuple, list)):
            raise ValueError(f"`block_out_channels` is {config.block_out_channels!r}, but must be a list of widths.")
        factor = 2 ** (len(config.block_out_channels) - 1)
        if len(sizes) != 2 or any(size < factor or size % factor for size in sizes):
            raise ValueError(
                f"`sample_size` is {config.sample_size}, but {len(config.block_out_channels) - 1} down blocks halve each side, "
                f"so it must be a multiple of {factor}. Choose another size, or fewer `block_out_channels`."
            )
        if config.noise_embedding_dim < 4 or config.noise_embedding_dim % 2:
            raise ValueError(
                f"`noise_embedding_dim` is {config.noise_embedding_dim}, but must be even and at least 4."
            )
        if len(config.block_out_channels) < 1 or config.layers_per_block < 1:
            raise ValueError("`block_out_channels` and `layers_per_block` must name at least one width and one layer.")
        for name in ("image_mean", "image_std"):
            values = config[name] if isinstance(config[name], (tuple, list)) else [config[name]]
            if not all(isinstance(value, (int, float)) and abs(value) <= MAX_STATISTIC for value in values):
                raise ValueError(f"`{name}` is {config[name]!r}, but must be made of numbers of the order of one.")
            if len(values) not in (1, config.out_channels) or config[name] in ([], ()):
                raise ValueError(
                    f"`{name}` has {len(values)} numbers for {config.out_channels} channels; give one a channel, or a single one."
                )
        if not torch.as_tensor(config.image_std).gt(0).all():
            raise ValueError(f"`image_std` is {config.image_std}, but a standard deviation must be greater than 0.")

    def _initialize(self):
        """Glorot-uniform kernels and zero biases; the last convolution is zero, so that no noise is predicted at first."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.conv_out.weight)

    @classmethod
    def _dict_from_json_file(cls, json_file):
        return read_json_object(json_file)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads a saved model (see `ModelMixin.from_pretrained`) and lays its weights out as channels_last.

        Loading makes weights contiguous, and convolutions are faster in the other layout, above all on a CPU. Only safetensors
        are read.

        Raises:
            OSError: if there is no model, or its files are damaged.
            ValueError: if the weights are not those of the configured architecture, or pickled weights are asked for.
        """
        wants_loading_info = kwargs.pop("output_loading_info", False)
        ask_for_safetensors(kwargs)
        misfit = f"The weights in {pretrained_model_name_or_path} are not those of its config.json"
        remedy = "Use the two files that were saved together."
        try:
            model, loading_info = super().from_pretrained(
                pretrained_model_name_or_path, output_loading_info=True, **kwargs
            )
        except OSError as error:
            folder = Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or "")
            hint = pickle_hint(folder) or " If the files are damaged, download or save the model again."
            raise OSError(
                f"No U-Net can be loaded from {pretrained_model_name_or_path}: {str(error).strip()}{hint}"
            ) from error
        except ValueError as error:
            # diffusers' own advice here is to go on with random weights.
            reason = str(error).partition(". If you want")[0].replace("Cannot load  because ", "")
            raise ValueError(f"{misfit}: {reason.rstrip('.')}. {remedy}") from error
        misfits = sorted(name for kind in ("missing_keys", "unexpected_keys") for name in loading_info[kind])
        if misfits:
            raise ValueError(f"{misfit}: {', '.join(misfits)} missing or unexpected. {remedy}")
        model.to(memory_format=torch.channels_last)
        return (model, loading_info) if wants_loading_info else model

    def noise_power(self, timestep: torch.Tensor | float, batch_size: int) -> torch.Tensor:
        """Noise power (variance) v = 1 - ᾱ at a timestep, a number or a tensor of shape (), (1,) or (batch_size,).

        In float64 where the device has it, and of shape (1,) where all samples share it, else (batch_size,).
        """
        # The highest frequency of the embedding makes a phase of 0.0004 out of float32's rounding of v, and compiled code rounds
        # otherwise than eager code does. Apple's GPUs have no float64.
        timestep = torch.as_tensor(timestep)
        timestep = timestep.to(torch.float32 if timestep.device.type == "mps" else torch.float64)
        if timestep.ndim > 1 or timestep.numel() not in (1, batch_size):
            raise ValueError(
                f"`timestep` has the shape {tuple(timestep.shape)}, but must be a number or hold one or {batch_size} numbers, "
                "one for each sample."
            )
        _, noise_rate = self.schedule.rates(self.schedule.diffusion_time(timestep))
        return (noise_rate**2).reshape(-1)

    def predict(self, sample: torch.Tensor, embedding: torch.Tensor, finest_level: int = 0) -> torch.Tensor:
        """The network proper: (B, in_channels, H, W) noisy images and (B or 1, noise_embedding_dim) embeddings to predictions."""
        # The pictures take on the layout of the weights, which tells nothing in the 1×1 convolution that they meet first.
        hidden_states = self.conv_in(laid_out_as(self.mid_blocks[0].conv1.weight, sample)), embedding
        skips = []
        for level, block in enumerate(self.down_blocks):
            walk = block if level >= finest_level else block.shortcuts
            hidden_states = walk(hidden_states, skips)
        for block in self.mid_blocks:
            hidden_states = block(hidden_states)
        for level, block in zip(reversed(range(len(self.up_blocks))), self.up_blocks, strict=True):
            walk = block if level >= finest_level else block.shortcuts
            hidden_states = walk(hidden_states, skips)
        return self.conv_out(hidden_states)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
        finest_level: int = 0,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Predicts the noise in `sample`, or what else the scheduler's `prediction_type` names.

        Args:
            sample: standardised noisy images, shape (B, in_channels, H, W).
            timestep: T·u - 1 for diffusion times u in [0, 1] and T = `num_train_timesteps`, so -1 is u = 0: a number, or a
                tensor of shape (), (1,) or (B,) of any dtype, integer or fractional.
            class_labels: must be `None`; it is here because `UNet2DModel` has it.
            return_dict: whether to return a [`~diffusers.models.unets.unet_2d.UNet2DOutput`] or a tuple.
            finest_level: the first of the levels above the bottleneck that takes part, for a network that is being grown; of
                finer ones only the shortcuts remain. `sample` is then average-pooled so many times.

        Returns:
            The prediction, in the shape and dtype of `sample`.
        """
        if class_labels is not None:
            raise ValueError("`class_labels` must be None: this model is unconditional.")
        if not 0 <= finest_level <= len(self.down_blocks):
            raise ValueError(f"`finest_level` is {finest_level}, but must lie between 0 and {len(self.down_blocks)}.")
        noise_power = self.noise_power(torch.as_tensor(timestep, device=sample.device), sample.shape[0])
        embedding = noise_embedding(noise_power, self.config.noise_embedding_dim)
        prediction = self.predict(sample, embedding, finest_level)
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)
