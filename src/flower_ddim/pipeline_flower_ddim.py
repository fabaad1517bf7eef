"""Pipeline that generates images with a U-Net and a DDIM scheduler, and interpolates between noises."""

import inspect
import math
import os
from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

# diffusers loads a component only from a module that is already imported.
from .scheduling_flower_ddim import FlowerDDIMScheduler  # noqa: F401
from .unet_flower_ddim import FlowerUNet2DModel  # noqa: F401


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class FlowerDDIMPipeline(DiffusionPipeline):
    """Unconditional image generation in a few deterministic steps.

    Args:
        unet: a [`FlowerUNet2DModel`], or a stock `UNet2DModel`.
        scheduler: a [`FlowerDDIMScheduler`], or any stock scheduler made from its configuration.

    Latents are standardised images of shape (B, C, H, W): image = unet.config.image_mean + unet.config.image_std · latent, and
    mean and standard deviation are 0.5 where the model has none. They are kept in float32 whatever the dtype of the
    weights, whose rounding would be visible as banding.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents"]

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads a pipeline from a folder, or from the Hub by id; see `DiffusionPipeline.from_pretrained`.

        Raises:
            FileNotFoundError: if what can only be a path is no folder.
            OSError: if files of the folder are missing or damaged.
            ValueError: if it holds another kind of pipeline.
        """
        path = os.fspath(pretrained_model_name_or_path)
        only_a_path = os.path.isabs(path) or path.startswith(".") or path.count("/") > 1
        if only_a_path and not os.path.isdir(path):
            raise FileNotFoundError(
                f"There is no folder {path}: name a saved pipeline's folder, or its id on the Hub."
            )
        return super().from_pretrained(path, **kwargs)

    @classmethod
    def load_config(cls, pretrained_model_name_or_path, **kwargs):
        """Reads `model_index.json`, and refuses that of a pipeline with other components."""
        try:
            config = super().load_config(pretrained_model_name_or_path, **kwargs)
        except OSError as error:
            raise OSError(f"{error} Name a folder that `save_pretrained` has written.") from error
        components = sorted(name for name, value in config.items() if isinstance(value, (list, tuple)))
        if components != ["scheduler", "unet"]:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {config.get('_class_name')} of {', '.join(components) or 'nothing'}, "
                "but this pipeline has a scheduler and a unet: load it with DiffusionPipeline.from_pretrained."
            )
        return config

    @property
    def num_timesteps(self) -> int:
        """Number of timesteps of the generation under way, or of the last one."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 20,
        eta: float = 0.0,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[["FlowerDDIMPipeline", int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],
    ) -> ImagePipelineOutput | tuple:
        """Generates images.

        Args:
            batch_size: number of images.
            generator: source of the noise. A list gives every image a generator of its own, and then an image does not
                depend on those generated with it.
            num_inference_steps: network evaluations per image, any integer ≥ 1.
            eta: η of DDIM in [0, 1]; 0 is deterministic. Other schedulers take only 0.
            latents: initial noise of shape (batch_size, C, H, W) and unit variance instead of drawn noise. `batch_size` may
                then be left at 1.
            output_type: `"pil"`, `"np"` (batch_size, H, W, C) or `"pt"` (batch_size, C, H, W), both float32 in [0, 1], or
                `"latent"`, standardised and not clipped.
            return_dict: whether to return an [`~diffusers.ImagePipelineOutput`] or a tuple.
            callback_on_step_end: called after every step as `callback(pipeline, step_index, timestep, {"latents": …})`;
                the "latents" of the dictionary that it returns replace the current ones.
            callback_on_step_end_tensor_inputs: what the callback is given; only "latents".

        Returns:
            The images, as `.images` or as the only element of a tuple.

        Raises:
            ValueError: for an argument out of range, naming the remedy.
        """
        batch_size = self._check_inputs(
            batch_size, generator, num_inference_steps, eta, latents, output_type, callback_on_step_end_tensor_inputs
        )
        device = self._execution_device
        if latents is None:
            latents = randn_tensor(
                (batch_size, *self._latent_shape), generator=generator, device=device, dtype=torch.float32
            )
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        latents = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma
        step_kwargs = self._step_kwargs(generator, eta)

        was_training = self.unet.training
        self.unet.eval()
        try:
            with self.progress_bar(total=len(timesteps)) as progress_bar:
                for i, timestep in enumerate(timesteps):
                    model_input = self.scheduler.scale_model_input(latents, timestep).to(self.unet.dtype)
                    model_output = self.unet(model_input, timestep, return_dict=False)[0]
                    latents = self.scheduler.step(
                        model_output.to(latents.dtype), timestep, latents, **step_kwargs, return_dict=False
                    )[0]
                    if callback_on_step_end is not None:
                        tensors = {"latents": latents} if callback_on_step_end_tensor_inputs else {}
                        latents = callback_on_step_end(self, i, timestep, tensors).pop("latents", latents)
                    progress_bar.update()
        finally:
            self.unet.train(was_training)

        images = latents if output_type == "latent" else self._to_images(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def interpolate(
        self, noise_a: torch.Tensor, noise_b: torch.Tensor, num_images: int = 11, **kwargs
    ) -> ImagePipelineOutput | tuple:
        """Generates the images between two noises, along a·cos(πw/2) + b·sin(πw/2) for w from 0 to 1.

        On this path the variance stays at one where that of the ends is one, so every point of it is a noise that the model knows;
        on a straight line it would fall to a half.

        Args:
            noise_a, noise_b: the ends, shape (C, H, W) or (1, C, H, W).
            num_images: number of images, both ends included, at least 2.
            kwargs: what generation takes (`num_inference_steps`, `output_type`, …).
        """
        if not isinstance(num_images, int) or num_images < 2:
            raise ValueError(f"`num_images` is {num_images!r}, but must be an integer >= 2: both ends are images too.")
        ends = []
        for name, noise in (("noise_a", noise_a), ("noise_b", noise_b)):
            noise = noise[None] if noise.ndim == 3 else noise
            self._check_latents(noise, 1, name)
            ends.append(noise.to(torch.float32))
        weights = torch.linspace(0, 1, num_images, device=ends[0].device)
        angles = (weights * (math.pi / 2)).reshape(-1, 1, 1, 1)
        latents = torch.cos(angles) * ends[0] + torch.sin(angles) * ends[1].to(ends[0].device)
        return self(batch_size=num_images, latents=latents, **kwargs)

    @property
    def _latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    def _check_inputs(
        self, batch_size, generator, num_inference_steps, eta, latents, output_type, callback_tensor_inputs
    ) -> int:
        """Raises a ValueError for arguments that cannot be used; returns the number of images."""
        for name, value in (("batch_size", batch_size), ("num_inference_steps", num_inference_steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}, but must be an integer >= 1.")
        if not 0 <= eta <= 1:
            raise ValueError(f"`eta` is {eta}, but must lie in [0, 1].")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` is {output_type!r}, but must be one of {', '.join(OUTPUT_TYPES)}.")
        if not set(callback_tensor_inputs) <= set(self._callback_tensor_inputs):
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` is {callback_tensor_inputs}, but only "
                f"{self._callback_tensor_inputs} can be asked for."
            )
        if latents is not None:
            batch_size = latents.shape[0] if batch_size == 1 and latents.ndim == 4 else batch_size
            self._check_latents(latents, batch_size, "latents")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"`generator` is a list of {len(generator)}, but {batch_size} images are asked for: give one generator an image, "
                "or a single one."
            )
        for name in ("schedule", "min_signal_rate", "max_signal_rate", "num_train_timesteps"):
            # Only classes of ours know the schedule by its name; a stock one was made from its table.
            ours, theirs = self.unet.config.get(name), self.scheduler.config.get(name)
            if ours is not None and theirs is not None and ours != theirs:
                raise ValueError(
                    f"The U-Net was made for `{name}` = {ours!r}, the scheduler for {theirs!r}: make the scheduler with "
                    f"`{name}={ours!r}`."
                )
        return batch_size

    def _check_latents(self, latents: torch.Tensor, batch_size: int, name: str):
        expected = (batch_size, *self._latent_shape)
        if tuple(latents.shape) != expected:
            raise ValueError(f"`{name}` has the shape {tuple(latents.shape)}, but must have {expected}.")
        if not latents.is_floating_point():
            raise ValueError(f"`{name}` has the dtype {latents.dtype}, but must be floating point noise.")

    def _step_kwargs(self, generator, eta: float) -> dict:
        """What the scheduler's `step` takes of `generator` and `eta`: stock schedulers differ."""
        parameters = inspect.signature(self.scheduler.step).parameters
        if eta and "eta" not in parameters:
            raise ValueError(
                f"`eta` is {eta}, but {type(self.scheduler).__name__} has no such setting: leave it at 0."
            )
        step_kwargs = {"eta": eta, "generator": generator}
        return {name: value for name, value in step_kwargs.items() if name in parameters}

    def _to_images(self, latents: torch.Tensor, output_type: str):
        """De-standardises latents and clips them to [0, 1]; see `output_type` of the call."""
        mean, std = (
            torch.as_tensor(self.unet.config.get(name, 0.5), device=latents.device).reshape(1, -1, 1, 1)
            for name in ("image_mean", "image_std")
        )
        images = (latents * std + mean).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.permute(0, 2, 3, 1).cpu().numpy()
        return images if output_type == "np" else self.numpy_to_pil(images)
