"""The noise-predicting U-Net of the flower model, with the interface of diffusers' `UNet2DModel`."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput



# From model_files.py.
"""What is read of a model folder: JSON objects and safetensors, and no pickles."""

import json
from pathlib import Path


PICKLE_REMEDY = (
    "Loading a pickle can run any code, so only safetensors are read: if you trust the file, convert it with "
    '`safetensors.torch.save_file(torch.load("diffusion_pytorch_model.bin", weights_only=True), '
    '"diffusion_pytorch_model.safetensors")`.'
)


def read_json_object(file) -> dict:
    """Reads a configuration file.

    diffusers takes other JSON for the name of a model, which it goes and asks the Hub for.

    Raises:
        ValueError: if the file holds anything but a JSON object; a `json.JSONDecodeError` if it is not JSON.
    """
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply to be a configuration: download or save it again.") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{file} holds a {type(value).__name__}, but must hold a JSON object: download or save it again."
        )
    return value


def ask_for_safetensors(kwargs: dict):
    """Sets `use_safetensors` among the arguments of a `from_pretrained`; raises a ValueError where that says no."""
    if kwargs.get("use_safetensors") is False:
        raise ValueError(f"`use_safetensors=False` would read pickled weights. {PICKLE_REMEDY}")
    kwargs["use_safetensors"] = True


def pickle_hint(folder) -> str:
    """What to add to a message that there are no weights: the way to convert what lies in the folder or one below, if anything."""
    pickles = sorted(str(file) for pattern in ("*.bin", "*/*.bin") for file in Path(folder).glob(pattern))
    return f" There is {', '.join(pickles)}, though. {PICKLE_REMEDY}" if pickles else ""


# From schedules.py.
"""Diffusion schedules: how much signal and how much noise there is at every diffusion time.

The *diffusion time* u runs from 0 (data) to 1 (noise). A schedule maps it to the *signal rate* √ᾱ and the *noise rate*
√(1-ᾱ), so that x_u = signal_rate · x_0 + noise_rate · ε (Ho et al. 2020, equation 4). The squares of the rates are powers
(variances) and add up to one.
"""

import math
from dataclasses import dataclass

import torch


LINEAR_BETA_START, LINEAR_BETA_END = 0.0001, 0.02

# Whatever divides by a signal rate uses at least this: pure `cosine` ends in no signal at all.
SIGNAL_RATE_FLOOR = 1e-3


def linear(diffusion_time: torch.Tensor, num_train_timesteps: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear β schedule (Ho et al. 2020, section 4): β_t rises from 0.0001 at t = 1 to 0.02 at t = `num_train_timesteps`.

    ᾱ is the cumulative product of 1 - β_t, placed at u = t / `num_train_timesteps` with ᾱ(0) = 1; between these grid points
    log ᾱ is interpolated. Arguments, result and dtype are those of [`DiffusionSchedule.rates`].
    """
    betas = torch.linspace(LINEAR_BETA_START, LINEAR_BETA_END, num_train_timesteps, dtype=torch.float64, device="cpu")
    log_alphas_cumprod = torch.nn.functional.pad(torch.log1p(-betas).cumsum(0), (1, 0))
    log_alphas_cumprod = log_alphas_cumprod.to(diffusion_time.device, diffusion_time.dtype)
    position = diffusion_time * num_train_timesteps
    lower = position.floor().clamp(0, num_train_timesteps - 1)
    index = lower.long()
    log_alpha_cumprod = torch.lerp(log_alphas_cumprod[index], log_alphas_cumprod[index + 1], position - lower)
    return torch.exp(0.5 * log_alpha_cumprod), torch.sqrt(-torch.expm1(log_alpha_cumprod))


def cosine(diffusion_time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine schedule (Nichol & Dhariwal 2021, section 3.2, without its offset): the rates walk a quarter circle."""
    angle = diffusion_time * (math.pi / 2)
    return torch.cos(angle), torch.sin(angle)


def offset_cosine(
    diffusion_time: torch.Tensor, min_signal_rate: float = 0.02, max_signal_rate: float = 0.95
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine schedule between two signal rates (the Keras DDIM example): neither end is pure signal or pure noise.

    The signal rate is `max_signal_rate` at u = 0 and `min_signal_rate` at u = 1; the angle between is linear in u.
    """
    start_angle, end_angle = math.acos(max_signal_rate), math.acos(min_signal_rate)
    angle = start_angle + diffusion_time * (end_angle - start_angle)
    return torch.cos(angle), torch.sin(angle)


MAX_TIMESTEPS = 100_000  # of which there are tables; beyond every use

SCHEDULES = ("linear", "cosine", "offset_cosine")


@dataclass(frozen=True)
class DiffusionSchedule:
    """A schedule with its constants; the network and the scheduler each build the same one from their configuration.

    Args:
        name: one of `"linear"`, `"cosine"` and `"offset_cosine"`.
        min_signal_rate, max_signal_rate: the signal rates at u = 1 and u = 0 of `"offset_cosine"`.
        num_train_timesteps: the number T of integer timesteps; timestep t stands for u = (t + 1) / T.

    Raises:
        ValueError: for an unknown name, rates outside 0 < min < max ≤ 1, or fewer than one timestep.
    """

    name: str = "offset_cosine"
    min_signal_rate: float = 0.02
    max_signal_rate: float = 0.95
    num_train_timesteps: int = 1000

    def __post_init__(self):
        if self.name not in SCHEDULES:
            raise ValueError(f"`schedule` is {self.name!r}, but must be one of {', '.join(SCHEDULES)}.")
        if not 0 < self.min_signal_rate < self.max_signal_rate <= 1:
            raise ValueError(
                f"`min_signal_rate` = {self.min_signal_rate} and `max_signal_rate` = {self.max_signal_rate} must "
                "satisfy 0 < min_signal_rate < max_signal_rate <= 1."
            )
        if type(self.num_train_timesteps) is not int or not 1 <= self.num_train_timesteps <= MAX_TIMESTEPS:
            raise ValueError(
                f"`num_train_timesteps` is {self.num_train_timesteps!r}, but must be an integer >= 1, and <= {MAX_TIMESTEPS:,}."
            )

    def diffusion_time(self, timestep: torch.Tensor) -> torch.Tensor:
        """Diffusion time u = (t + 1) / T of timesteps t in [-1, T - 1], integer or fractional, of any dtype.

        Computed in float32 or better. Half precision cannot hold 999 (bfloat16 rounds it to 1000), so u is clamped to [0, 1].
        """
        dtype = torch.float64 if timestep.dtype == torch.float64 else torch.float32
        return ((timestep.to(dtype) + 1) / self.num_train_timesteps).clamp(0, 1)

    def timestep(self, diffusion_time: torch.Tensor) -> torch.Tensor:
        """The timestep t = T·u - 1 of diffusion times u in [0, 1]: the inverse of [`diffusion_time`]."""
        return diffusion_time * self.num_train_timesteps - 1

    def rates(self, diffusion_time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Signal and noise rates at diffusion times u in [0, 1], in the shape and dtype of the (floating point) argument."""
        if self.name == "linear":
            return linear(diffusion_time, self.num_train_timesteps)
        if self.name == "cosine":
            return cosine(diffusion_time)
        return offset_cosine(diffusion_time, self.min_signal_rate, self.max_signal_rate)

    def alphas_cumprod(self) -> torch.Tensor:
        """The table ᾱ((k + 1) / T) of the integer timesteps k = 0 … T-1, in float64, as the stock schedulers use it.

        Floored so that nobody who divides by its root meets zero.
        """
        time = torch.arange(1, self.num_train_timesteps + 1, dtype=torch.float64) / self.num_train_timesteps
        return self.rates(time)[0].clamp(min=SIGNAL_RATE_FLOOR) ** 2

    def betas(self) -> torch.Tensor:
        """The β_k whose cumulative product of 1 - β_k is [`alphas_cumprod`]: `trained_betas` of the stock schedulers."""
        alphas_cumprod = self.alphas_cumprod()
        return 1 - alphas_cumprod / torch.nn.functional.pad(alphas_cumprod[:-1], (1, 0), value=1.0)


# From unet_blocks.py.
"""The building blocks of the U-Net: residual blocks, and the levels that they are stacked to."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def _bilinear(hidden_states: torch.Tensor) -> torch.Tensor:
    return F.interpolate(hidden_states, scale_factor=2, mode="bilinear", align_corners=False)


def _bilinear_backward(gradient: torch.Tensor) -> torch.Tensor:
    batch_size, channels, height, width = gradient.shape
    input_size = [batch_size, channels, height // 2, width // 2]
    return torch.ops.aten.upsample_bilinear2d_backward(gradient, [height, width], input_size, False, 2.0, 2.0)


# A copy of this module, out of a model folder, may have registered them already. The gradient is an operator too, since the
# shape of PyTorch's own cannot be told where sizes are symbols.
if not hasattr(torch.ops.flower_ddim, "upsample"):
    for name, function, fake in (
        ("flower_ddim::upsample", _bilinear, _bilinear),
        ("flower_ddim::upsample_backward", _bilinear_backward, lambda gradient: F.avg_pool2d(gradient, kernel_size=2)),
    ):
        torch.library.custom_op(name, function, mutates_args=(), schema="(Tensor input) -> Tensor")
        torch.library.register_fake(name, fake)
    torch.library.register_autograd(
        "flower_ddim::upsample", lambda ctx, gradient: torch.ops.flower_ddim.upsample_backward(gradient)
    )


def upsample(hidden_states: torch.Tensor) -> torch.Tensor:
    """Bilinear ×2 upsampling with half-pixel centres, (B, C, H, W) to (B, C, 2H, 2W)."""
    # For CPUs PyTorch's compiler makes a loop of its own of this, which gathers number by number: in bfloat16 a quarter of a
    # forward pass. As an operator of which it knows nothing, PyTorch's own kernel is called.
    if hidden_states.device.type == "cpu" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return torch.ops.flower_ddim.upsample(hidden_states)
    return _bilinear(hidden_states)


class ResidualBlock(nn.Module):
    """x ↦ shortcut(x) + conv(swish(conv(norm(x)))), at one resolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        # Keras' defaults, as in the reference: x ← 0.99 x + 0.01 batch for the running statistics, ε = 0.001.
        self.norm = nn.BatchNorm2d(in_channels, eps=1e-3, momentum=0.01, affine=False)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(in_channels, out_channels, kernel_size=1) if in_channels != out_channels else nn.Identity()
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.conv_shortcut(hidden_states)
        hidden_states = F.silu(self.conv1(self.norm(hidden_states)))
        return residual + self.conv2(hidden_states)

    def shortcut(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What is left of `forward` without the body."""
        return self.conv_shortcut(hidden_states)


class EmbeddedResidualBlock(ResidualBlock):
    """A residual block of a pair, features (B, in_channels, H, W) and an embedding (B or 1, embedding_dim).

    It computes what a [`ResidualBlock`] would with the embedding spread over all pixels as that many channels more. In a plane
    of one number a 3×3 kernel meets nine different surroundings only, those of the inside, the edges and the corners: so when
    images are generated the embedding costs next to nothing, where spread it would be half of the block.
    """

    def __init__(self, in_channels: int, embedding_dim: int, out_channels: int):
        super().__init__(in_channels + embedding_dim, out_channels)
        self.parts = [in_channels, embedding_dim]

    def forward(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if self.training or not self._is_plain():
            return super().forward(_spread(*inputs))
        hidden_states, embedding = inputs
        kernel, embedding_kernel = self.conv_shortcut.weight.split(self.parts, dim=1)
        shift = F.conv2d(
            embedding.to(hidden_states.dtype)[:, :, None, None], embedding_kernel, self.conv_shortcut.bias
        )
        residual = F.conv2d(hidden_states, kernel) + shift

        means, variances = self.norm.running_mean.split(self.parts), self.norm.running_var.split(self.parts)
        constants = (embedding.to(means[1].dtype) - means[1]) * torch.rsqrt(variances[1] + self.norm.eps)
        kernel, constants_kernel = self.conv1.weight.split(self.parts, dim=1)
        normalized = F.batch_norm(hidden_states, means[0], variances[0], eps=self.norm.eps)
        hidden_states = F.conv2d(normalized, kernel, padding=1)
        constants = constants.to(hidden_states.dtype)
        hidden_states += _convolve_constants(constants, constants_kernel, self.conv1.bias, hidden_states)
        return residual + self.conv2(F.silu(hidden_states))

    def shortcut(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return super().shortcut(_spread(*inputs))

    def _is_plain(self) -> bool:
        """Whether nothing hangs on the layers (adapters, quantisation, offloading) that needs them to be called."""
        layers = ((self.norm, nn.BatchNorm2d), (self.conv1, nn.Conv2d), (self.conv_shortcut, nn.Conv2d))
        return all(type(layer) is kind and not _has_hooks(layer) for layer, kind in layers)


def _has_hooks(layer: nn.Module) -> bool:
    """Whether something is to happen when the layer is called: by PyTorch, accelerate or diffusers."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return bool(hooked) or hasattr(layer, "_hf_hook") or hasattr(layer, "_diffusers_hook")


def _spread(hidden_states: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Features (B, C, H, W) with the embedding (B or 1, E) at every pixel: (B, C + E, H, W)."""
    planes = embedding.to(hidden_states.dtype)[:, :, None, None]
    planes = planes.expand(len(hidden_states), -1, *hidden_states.shape[-2:])
    return torch.cat([hidden_states, laid_out_as(hidden_states, planes)], dim=1)


def _convolve_constants(
    constants: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, like: torch.Tensor
) -> torch.Tensor:
    """3×3 convolution, padded with zeros, of planes of one number each: (B, C) to (B, out, H, W), sized and laid out as `like`."""
    height, width = like.shape[-2:]
    planes = constants[:, :, None, None].expand(-1, -1, min(height, 3), min(width, 3))
    tile = F.conv2d(planes, kernel, bias, padding=1)
    if height > 3:
        top, inside, bottom = tile.split(1, dim=2)
        tile = torch.cat([top, inside.expand(-1, -1, height - 2, -1), bottom], dim=2)
    if width > 3:
        left, inside, right = tile.split(1, dim=3)
        tile = torch.cat([left, inside.expand(-1, -1, -1, width - 2), right], dim=3)
    return laid_out_as(like, tile)


def laid_out_as(like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in the memory format of `like`: PyTorch joins and adds tensors of different formats slowly."""
    is_channels_last = like.is_contiguous(memory_format=torch.channels_last)
    return tensor.contiguous(memory_format=torch.channels_last if is_channels_last else torch.contiguous_format)


def residual_block(in_channels: int, out_channels: int, embedding_dim: int) -> ResidualBlock:
    """A residual block that takes in an embedding, if there is one."""
    if embedding_dim:
        return EmbeddedResidualBlock(in_channels, embedding_dim, out_channels)
    return ResidualBlock(in_channels, out_channels)


class DownBlock(nn.Module):
    """Residual blocks, each output kept as a skip, then 2×2 average pooling.

    With an `embedding_dim` it is given a pair, features and embedding, which goes to the first of its blocks.
    """

    def __init__(self, in_channels: int, out_channels: int, num_layers: int, embedding_dim: int = 0):
        super().__init__()
        first = residual_block(in_channels, out_channels, embedding_dim)
        self.resnets = nn.ModuleList(
            [first, *(ResidualBlock(out_channels, out_channels) for _ in range(num_layers - 1))]
        )

    def forward(self, hidden_states: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states)
            skips.append(hidden_states)
        return F.avg_pool2d(hidden_states, kernel_size=2)

    def shortcuts(self, hidden_states: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """What is left of `forward` without the bodies of the residual blocks and the pooling."""
        for resnet in self.resnets:
            hidden_states = resnet.shortcut(hidden_states)
            skips.append(hidden_states)
        return hidden_states


class UpBlock(nn.Module):
    """Bilinear ×2 upsampling, then residual blocks, each on its input concatenated with the latest skip."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, num_layers: int):
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock((in_channels if i == 0 else out_channels) + skip_channels, out_channels)
            for i in range(num_layers)
        )

    def forward(self, hidden_states: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        hidden_states = upsample(hidden_states)
        for resnet in self.resnets:
            hidden_states = resnet(torch.cat([hidden_states, skips.pop()], dim=1))
        return hidden_states

    def shortcuts(self, hidden_states: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """What is left of `forward` without the bodies of the residual blocks and the upsampling."""
        for resnet in self.resnets:
            hidden_states = resnet.shortcut(torch.cat([hidden_states, skips.pop()], dim=1))
        return hidden_states


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
