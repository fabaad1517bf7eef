"""The noise-predicting U-Net of the flower model, with the interface of diffusers' `UNet2DModel`."""

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput

from ..schedulers.noise_schedules import DiffusionSchedule
from ..storage.json_objects import read_json_object
from ..storage.safe_loading import ask_for_safetensors
from .unet_blocks import AttentionBlock, DownBlock, ResidualBlock, UpBlock


MIN_FREQUENCY, MAX_FREQUENCY = 1.0, 1000.0

# Far more than anybody needs; a damaged configuration must not fill the memory.
MAX_WIDTH, MAX_LAYERS, MAX_STATISTIC = 65_536, 64, 1_000


def noise_embedding(noise_power: torch.Tensor, embedding_dim: int = 32) -> torch.Tensor:
    """Sinusoidal embedding γ(v) = [sin(2π f_k v), cos(2π f_k v)] of the noise power (after Vaswani et al. 2017, section 3.5).

    Args:
        noise_power: variances v in [0, 1], shape (B,), float32 or float64 (the highest frequency makes noise of half precision).
        embedding_dim: twice the number of frequencies f_k, which rise geometrically from 1 to 1,000.

    Returns:
        Tensor of shape (B, embedding_dim) and the dtype of `noise_power`: all sines, then all cosines.
    """
    ends = math.log(MIN_FREQUENCY), math.log(MAX_FREQUENCY)
    log_frequencies = torch.linspace(*ends, embedding_dim // 2, dtype=noise_power.dtype, device=noise_power.device)
    angles = 2 * math.pi * torch.exp(log_frequencies) * noise_power[:, None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class FlowerUNet2DModel(ModelMixin, ConfigMixin):
    """Predicts the noise in an image from the image and the *power* of that noise (chapter 8 of *Generative Deep Learning*).

    The call is that of diffusers' `UNet2DModel`; the noise power is derived from the timestep with the configured schedule.
    Trained for another `prediction_type` of its scheduler, the network predicts that instead. Sample in evaluation mode only:
    in training mode every call changes the statistics of BatchNorm, and diffusers' `DDIMPipeline` does not see to that.

    Args:
        sample_size: side of the images in pixels, or (height, width): multiples of `side_factor`.
        in_channels, out_channels: channels of the noisy image and of the prediction.
        block_out_channels: widths of the resolutions from fine to coarse; the last is the bottleneck.
        layers_per_block: residual blocks at each resolution, on the way down and on the way up.
        noise_embedding_dim: length of the noise embedding, even.
        schedule, min_signal_rate, max_signal_rate, num_train_timesteps: see [`DiffusionSchedule`]; those of the scheduler.
        image_mean, image_std: statistics of the training images in [0, 1], one number for all channels or one each, without which
            the weights are of no use: image = image_mean + image_std · sample. The default maps [-1, 1] to [0, 1].
        num_class_embeds: number of classes K that the network can be told, or `None`. What each of them is learned as lies in a row
            of a table; one more row, K, is the null class, which says nothing. A linear layer in every residual block, zero at
            first, adds what follows from noise embedding and class.
        class_embedding_dim: length of the rows.
        class_names: name of every class, without which the weights are of no use either, or `None` where they have none.
        default_num_inference_steps, default_guidance_scale: what a pipeline takes unless it is told otherwise.
        distilled_guidance_scale: the guidance that a student has built in, which is for its default number of steps only.
        norm_num_groups: groups of channels by which every image is normalised by itself; `None` is BatchNorm, as in the book.
        attention_head_dim: channels a head of the attention behind every residual block of the bottleneck; `None` is none.
        patch_size: side of the square patches of pixels that the network takes for one (Dosovitskiy et al. 2021, section 3.1).
            A side of 2 quarters the work of a level, which leaves time for wider ones.

    Raises:
        ValueError: for sizes that do not fit together, naming the argument.
    """

    _supports_gradient_checkpointing = True
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
        num_class_embeds: int | None = None,
        class_embedding_dim: int = 64,
        class_names: Sequence[str] | None = None,
        default_num_inference_steps: int = 20,
        default_guidance_scale: float = 1.0,
        distilled_guidance_scale: float | None = None,
        norm_num_groups: int | None = None,
        attention_head_dim: int | None = None,
        patch_size: int = 1,
    ):
        super().__init__()
        self.check_config()
        self.check_classes()
        self.schedule = DiffusionSchedule(schedule, min_signal_rate, max_signal_rate, num_train_timesteps)

        *widths, bottleneck = block_out_channels
        self.conv_in = nn.Conv2d(in_channels * patch_size**2, block_out_channels[0], kernel_size=1)
        channels = block_out_channels[0] + noise_embedding_dim
        options = {"norm_num_groups": norm_num_groups}
        if num_class_embeds is not None:
            self.class_embedding = nn.Embedding(num_class_embeds + 1, class_embedding_dim)
            options["embedding_dim"] = noise_embedding_dim + class_embedding_dim
        self.down_blocks = nn.ModuleList()
        for width in widths:
            self.down_blocks.append(DownBlock(channels, width, layers_per_block, **options))
            channels = width
        self.mid_blocks = nn.ModuleList()
        for _ in range(layers_per_block):
            self.mid_blocks.append(ResidualBlock(channels, bottleneck, **options))
            if attention_head_dim is not None:
                self.mid_blocks.append(AttentionBlock(bottleneck, attention_head_dim, norm_num_groups))
            channels = bottleneck
        self.up_blocks = nn.ModuleList()
        for width in reversed(widths):
            self.up_blocks.append(UpBlock(channels, width, width, layers_per_block, **options))
            channels = width
        self.conv_out = nn.Conv2d(channels, out_channels * patch_size**2, kernel_size=1)
        self._initialize()

    @property
    def side_factor(self) -> int:
        """What height and width of images are multiples of."""
        return self.config.patch_size * 2 ** (len(self.config.block_out_channels) - 1)

    def check_config(self):
        """Raises a ValueError for sizes in the configuration that do not fit together, naming the argument."""
        config = self.config
        limits = {"in_channels": MAX_WIDTH, "out_channels": MAX_WIDTH, "layers_per_block": MAX_LAYERS}
        limits |= {"sample_size": MAX_WIDTH, "block_out_channels": MAX_WIDTH, "noise_embedding_dim": MAX_WIDTH}
        for name, limit in limits.items():
            if not all(type(value) is int and 1 <= value <= limit for value in _as_list(config[name])):
                raise ValueError(f"`{name}` is {config[name]!r}, but must hold whole numbers from 1 to {limit:,}.")
        for name in ("norm_num_groups", "attention_head_dim", "patch_size"):
            value = config[name]
            is_left_out = value is None and name != "patch_size"
            if not is_left_out and not (type(value) is int and 1 <= value <= MAX_WIDTH):
                raise ValueError(f"`{name}` is {value!r}, but must be a whole number from 1 to {MAX_WIDTH:,}.")
        if not isinstance(config.block_out_channels, (tuple, list)):
            raise ValueError(f"`block_out_channels` is {config.block_out_channels!r}, but must be a list of widths.")
        sizes = config.sample_size if isinstance(config.sample_size, (tuple, list)) else (config.sample_size,) * 2
        factor = self.side_factor
        if len(sizes) != 2 or any(size < factor or size % factor for size in sizes):
            raise ValueError(
                f"`sample_size` is {config.sample_size}, but {len(config.block_out_channels) - 1} down blocks halve each side, "
                f"after patches of `patch_size` {config.patch_size}, so it must be a multiple of {factor}. Choose another size, "
                "or fewer `block_out_channels`."
            )
        if (dim := config.noise_embedding_dim) < 4 or dim % 2:
            raise ValueError(f"`noise_embedding_dim` is {dim}, but must be even and at least 4.")
        if len(config.block_out_channels) < 1:
            raise ValueError("`block_out_channels` must give at least one width.")
        for name in ("image_mean", "image_std"):
            values = _as_list(config[name])
            if not all(isinstance(value, (int, float)) and abs(value) <= MAX_STATISTIC for value in values):
                raise ValueError(f"`{name}` is {config[name]!r}, but must be made of numbers up to {MAX_STATISTIC:,}.")
            if len(values) not in (1, config.out_channels):
                raise ValueError(
                    f"`{name}` has {len(values)} numbers for {config.out_channels} channels; give one a channel, or a single one."
                )
        if min(_as_list(config.image_std)) <= 0:
            raise ValueError(f"`image_std` is {config.image_std}, but a standard deviation must be greater than 0.")

    def check_classes(self):
        """Raises a ValueError for classes or recommendations in the configuration that make no sense, naming the argument."""
        config, count, names = self.config, self.config.num_class_embeds, self.config.class_names
        for name in ("num_class_embeds", "class_embedding_dim", "default_num_inference_steps"):
            value = config[name]
            if not (type(value) is int and 1 <= value <= MAX_WIDTH) and (name, value) != ("num_class_embeds", None):
                raise ValueError(f"`{name}` is {value!r}, but must be a whole number from 1 to {MAX_WIDTH:,}.")
        if names is not None and (
            count is None or len(names) != count or len({name for name in names if isinstance(name, str)}) != count
        ):
            raise ValueError(f"`class_names` must be different names, as many as `num_class_embeds`: {count}.")
        for scale in (config.default_guidance_scale, 1 if (w := config.distilled_guidance_scale) is None else w):
            if not isinstance(scale, (int, float)) or not 0 <= scale < math.inf or (count is None and scale != 1):
                raise ValueError(f"A guidance scale is {scale!r}, but must be at least 0, and 1 without classes.")

    def _initialize(self):
        """Glorot-uniform kernels and zero biases; the last convolution is zero, so that no noise is predicted at first.

        The layers of the embedding are zero, too: a network that learns classes later begins with the predictions that it had.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.mid_blocks:
            if isinstance(block, AttentionBlock):
                nn.init.zeros_(block.to_out.weight)
        nn.init.zeros_(self.conv_out.weight)

    @classmethod
    def _dict_from_json_file(cls, json_file):
        # What names the code in the folder is for `AutoModel`.
        return {name: value for name, value in read_json_object(json_file).items() if name != "auto_map"}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads a saved model, from safetensors only, see `ModelMixin.from_pretrained`.

        The weights are laid out as channels_last, in which convolutions are faster, above all on a CPU.

        Raises:
            OSError: if there is no model, or its files are damaged.
            ValueError: if the weights are not those of the configured architecture, or for `use_safetensors=False`.
        """
        path = pretrained_model_name_or_path
        wants_loading_info = kwargs.pop("output_loading_info", False)
        ask_for_safetensors(kwargs)
        try:
            model, loading_info = super().from_pretrained(path, output_loading_info=True, **kwargs)
        except OSError as error:
            remedy = "Pass the `variant` if it is one; if the files are damaged, download or save the model again."
            raise OSError(f"No U-Net can be loaded from {path}: {str(error).strip()} {remedy}") from error
        except ValueError as error:
            # diffusers advises to continue with random weights.
            reason = str(error).partition(". If you want")[0].replace("Cannot load  because ", "")
            raise cls._misfit(path, reason.rstrip(".")) from error
        misfits = sorted(name for kind in ("missing_keys", "unexpected_keys") for name in loading_info[kind])
        if misfits:
            raise cls._misfit(path, f"{', '.join(misfits)} missing or unexpected")
        model.to(memory_format=torch.channels_last)
        return (model, loading_info) if wants_loading_info else model

    @staticmethod
    def _misfit(path, reason: str) -> ValueError:
        remedy = "Use a file of weights and a config.json that were saved together."
        return ValueError(f"The weights in {path} are not those of its config.json: {reason}. {remedy}")

    def noise_power(self, timestep: torch.Tensor | float, batch_size: int) -> torch.Tensor:
        """Noise power v = 1 - ᾱ, (1,) or (B,), at a number or timesteps (), (1,) or (B,); a ValueError for other shapes."""
        # In float64: the highest frequency of the embedding turns float32's rounding of v into a phase of 0.0004, and compiled code
        # rounds differently from eager code. Apple's GPUs have no float64.
        timestep = torch.as_tensor(timestep)
        timestep = timestep.to(torch.float32 if timestep.device.type == "mps" else torch.float64)
        if timestep.ndim > 1 or timestep.numel() not in (1, batch_size):
            given = f"`timestep` has the shape {tuple(timestep.shape)}"
            raise ValueError(f"{given}, but must hold one number, or {batch_size}, one for each sample.")
        _, noise_rate = self.schedule.rates(self.schedule.diffusion_time(timestep))
        return (noise_rate**2).reshape(-1)

    def embed(self, sample: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """First features (B, C, H, W): `conv_in` of images (B, in_channels, H, W), and the embedding (B or 1, D) at every pixel."""
        if self.config.patch_size > 1:
            sample = F.pixel_unshuffle(sample, self.config.patch_size)
        # The images take on the layout of the weights; the 1×1 convolution that they meet first says nothing of it.
        hidden_states = self.conv_in(match_memory_format(sample, self.mid_blocks[0].conv1.weight))
        planes = embedding.to(hidden_states.dtype)[:, :, None, None].expand(len(sample), -1, *sample.shape[-2:])
        return torch.cat([hidden_states, match_memory_format(planes, hidden_states)], dim=1)

    def embed_for_blocks(self, embedding: torch.Tensor, class_labels: torch.Tensor | None, batch_size: int):
        """What every residual block is told, (B, noise_embedding_dim + class_embedding_dim); `None` without classes."""
        classes = self.config.num_class_embeds
        if classes is None:
            return None
        table = self.class_embedding.weight
        if class_labels is None:
            rows = table[-1:]
        elif class_labels.is_floating_point():
            rows = class_labels.to(table.dtype) @ table
        else:
            rows = self.class_embedding(class_labels)
        return torch.cat([part.to(table.dtype).expand(batch_size, -1) for part in (embedding, rows)], dim=1)

    def predict(
        self, sample: torch.Tensor, embedding: torch.Tensor, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The network proper: (B, in_channels, H, W) noisy images and (B or 1, noise_embedding_dim) embeddings to predictions."""
        hidden_states = self.embed(sample, embedding)
        embedding = self.embed_for_blocks(embedding, class_labels, len(sample))
        skips = []
        for block in self.down_blocks:
            hidden_states = block(hidden_states, skips, embedding)
        for block in self.mid_blocks:
            hidden_states = block(hidden_states, embedding)
        for block in self.up_blocks:
            hidden_states = block(hidden_states, skips, embedding)
        prediction = self.conv_out(hidden_states)
        return F.pixel_shuffle(prediction, self.config.patch_size) if self.config.patch_size > 1 else prediction

    def check_class_labels(self, class_labels: torch.Tensor, batch_size: int):
        """Raises a ValueError for labels of another shape than [`forward`] takes, and for any on a model without classes."""
        classes = self.config.num_class_embeds
        if classes is None:
            raise ValueError("`class_labels` must be left out: this model knows no classes.")
        shape = (batch_size, classes + 1) if class_labels.is_floating_point() else (batch_size,)
        if tuple(class_labels.shape) != shape:
            raise ValueError(
                f"`class_labels` has the shape {tuple(class_labels.shape)}, but must be integers of shape ({batch_size},) or "
                f"floating point of shape ({batch_size}, {classes + 1})."
            )

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Predicts the noise in `sample`, or what `prediction_type` names, in its shape and dtype; ValueError for wrong shapes.

        Args:
            sample: standardised noisy images, shape (B, in_channels, H, W).
            timestep: T·u - 1 for diffusion times u in [0, 1] and T = `num_train_timesteps`, so -1 is u = 0: a number, or a
                tensor of shape (), (1,) or (B,) of any dtype, integer or fractional.
            class_labels: classes as integers, shape (B,), where `num_class_embeds` is the null class; or weights of all classes and
                the null class, floating point of shape (B, num_class_embeds + 1); `None` is the null class for all.
            return_dict: whether to return a [`~diffusers.models.unets.unet_2d.UNet2DOutput`] or a tuple.
        """
        if class_labels is not None:
            self.check_class_labels(class_labels, len(sample))
        channels, factor = self.config.in_channels, self.side_factor
        if sample.ndim != 4 or sample.shape[1] != channels or sample.shape[2] % factor or sample.shape[3] % factor:
            given = f"`sample` has the shape {tuple(sample.shape)}, but must be (B, {channels}, height, width)"
            raise ValueError(f"{given}; `sample` height and width must be multiples of {factor}.")
        if self.training and not torch.is_grad_enabled():
            warnings.warn("Sampling in training mode ruins the U-Net's statistics: call `unet.eval()`.", stacklevel=2)
        noise_power = self.noise_power(torch.as_tensor(timestep, device=sample.device), sample.shape[0])
        embedding = noise_embedding(noise_power, self.config.noise_embedding_dim)
        prediction = self.predict(sample, embedding, class_labels)
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)


def match_memory_format(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`tensor` in the memory format of `like`: PyTorch joins and adds tensors of different formats slowly."""
    is_channels_last = like.is_contiguous(memory_format=torch.channels_last)
    return tensor.contiguous(memory_format=torch.channels_last if is_channels_last else torch.contiguous_format)


def _as_list(value) -> list:
    return list(value) if isinstance(value, (tuple, list)) else [value]
