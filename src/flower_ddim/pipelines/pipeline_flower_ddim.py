"""Pipeline that generates images with a U-Net and a DDIM scheduler, interpolates between noises and inverts images."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

# diffusers loads a component only from a module that is imported already.
from ..models import unet_flower_ddim  # noqa: F401
from ..schedulers import scheduling_flower_ddim  # noqa: F401
from .class_labels import ClassLabels, guided
from .image_processing import fit_pixels, pixels
from .interpolation import label_path, noise_path
from .portable import PortablePipeline, _from_package


@dataclass
class DenoisingState:
    """A generation after one of its steps, from `noisy` to `latents`, both (B, C, H, W); `step_index` counts from 0.

    The next step begins with what stands in `latents` by then. `predicted` is the image, None if the scheduler tells none.
    """

    step_index: int
    timestep: torch.Tensor
    noisy: torch.Tensor
    latents: torch.Tensor
    predicted: torch.Tensor | None


class FlowerDDIMPipeline(PortablePipeline):
    """Generates images in a few deterministic steps, of a class where the network knows classes.

    Args:
        unet: a [`FlowerUNet2DModel`], or a stock `UNet2DModel`.
        scheduler: a [`FlowerDDIMScheduler`], or a stock one made from its configuration; `docs/solvers.md` tells which do well.

    Latents are standardised images (B, C, H, W): image = unet.config.image_mean + unet.config.image_std · latent, with 0.5 for both
    where the model has none. They are float32 whatever the dtype of the weights, whose rounding would be visible as banding.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents"]
    _interrupt = False

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def num_timesteps(self) -> int:
        """Number of timesteps of the generation under way, or of the last one."""
        return self._num_timesteps

    @property
    def labels(self) -> dict[str, int]:
        """The names of the classes and their indices; empty if there are none."""
        return {name: i for i, name in enumerate(ClassLabels(self.unet).names)}

    def get_label_ids(self, label: str | int | None | list) -> list[int]:
        """Indices of classes by their names, `None` for the null class; a ValueError names those near one that there is not."""
        classes = ClassLabels(self.unet)
        return [classes.index(name) for name in (label if isinstance(label, (list, tuple)) else [label])]

    @property
    def default_num_inference_steps(self) -> int:
        """The number of steps where none is given."""
        return self.unet.config.get("default_num_inference_steps", 20)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[["FlowerDDIMPipeline", int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],
        class_labels: str | int | list | torch.Tensor | None = None,
        guidance_scale: float | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Generates images.

        Args:
            batch_size: number of images.
            generator: source of the noise, one for all images, or a list of one each: then an image does not depend on the others.
            num_inference_steps: steps of the sampler, any integer ≥ 1; `None` is what the model is made for, 20 where it
                does not say.
            eta: η of DDIM in [0, 1]; 0 is deterministic. Other schedulers take only 0.
            latents: noise of shape (batch_size, C, H, W) and unit variance to start from; `batch_size` may then be left at 1.
            output_type: `"pil"`, `"np"` (batch_size, H, W, C) or `"pt"` (batch_size, C, H, W), both float32 in [0, 1], or
                `"latent"`, standardised and not clipped.
            return_dict: whether to return an [`~diffusers.ImagePipelineOutput`] or a tuple of the images.
            callback_on_step_end: called after every step as `callback(pipeline, step_index, timestep, {"latents": …})`;
                the "latents" of what it returns, if any, replace the current ones. `pipeline._interrupt = True` ends the steps.
            callback_on_step_end_tensor_inputs: what the callback is given; only "latents".
            class_labels: the class of all images, a name of [`labels`] or an index, or a list or tensor of one each, where `None`
                says nothing; `batch_size` may then be left at 1. Weights of all classes and the null class, (batch_size, K + 1),
                mix them.
            guidance_scale: w ≥ 0 of classifier-free guidance (Ho & Salimans 2022, equation 6, with w - 1 for w): the prediction
                without a class plus w times what the class adds to it. 1 is the plain prediction, another w takes twice the time;
                `None` is what the model recommends.

        Raises:
            ValueError: for an argument out of range, naming the remedy.
        """
        labels = ClassLabels(self.unet).tensor(class_labels)
        if labels is not None and latents is None and batch_size == 1:
            batch_size = len(labels)
        if loading := _from_package("pipelines.loading"):
            loading.check_call(self, batch_size, generator, latents, output_type, callback_on_step_end_tensor_inputs)
        self._interrupt = False
        if latents is None:
            shape = (batch_size, *self.latent_shape)
            latents = randn_tensor(shape, generator, self._execution_device, dtype=torch.float32)
        for state in self.denoise(latents, num_inference_steps, eta, generator, class_labels, guidance_scale):
            if callback_on_step_end is not None:
                tensors = {"latents": state.latents} if callback_on_step_end_tensor_inputs else {}
                answer = callback_on_step_end(self, state.step_index, state.timestep, tensors) or {}
                state.latents = answer.pop("latents", state.latents)
                if self._interrupt:
                    break
        images = self.postprocess(state.latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def denoise(
        self,
        latents: torch.Tensor,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        class_labels: str | int | list | torch.Tensor | None = None,
        guidance_scale: float | None = None,
    ) -> Iterator[DenoisingState]:
        """Yields a [`DenoisingState`] after every step from noise to images; `__call__` is a loop over this.

        Args:
            latents: noise of shape (B, C, H, W) and unit variance.
            num_inference_steps, eta, generator, class_labels, guidance_scale: as in the call.
        """
        if num_inference_steps is None:
            num_inference_steps = self.default_num_inference_steps
        if loading := _from_package("pipelines.loading"):
            loading.check_steps(num_inference_steps, eta, generator, len(latents))
            loading.check_sampler(self, num_inference_steps, guidance_scale)
        device = self._execution_device
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        latents = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma
        step_kwargs = self._step_kwargs(generator, eta)
        predict = guided(self.unet, device, class_labels, guidance_scale, len(latents))
        with self._unet_in_eval_mode(), self.progress_bar(total=len(timesteps)) as progress_bar:
            for i, timestep in enumerate(timesteps):
                model_output = predict(self.scheduler.scale_model_input(latents, timestep), timestep)
                step = self.scheduler.step(model_output, timestep, latents, **step_kwargs, return_dict=False)
                state = DenoisingState(i, timestep, latents, step[0], step[1] if len(step) > 1 else None)
                yield state
                latents = state.latents
                progress_bar.update()

    @torch.no_grad()
    def interpolate(
        self,
        *anchors: torch.Tensor,
        num_images: int = 11,
        closed: bool = False,
        rescale: bool = False,
        class_labels: str | int | list | torch.Tensor | None = None,
        **kwargs,
    ) -> ImagePipelineOutput | tuple:
        """Generates the images on the way from one noise to the next, along a·cos(πw/2) + b·sin(πw/2) for w from 0 to 1.

        On this path the variance stays at one, so every point is noise that the model knows; on a straight line it falls to a half.

        Args:
            anchors: two or more noises, shape (C, H, W) or (1, C, H, W) each, or (N, C, H, W) for several of them.
            num_images: images from one anchor to the next, both included, at least 2. An anchor between two sections appears once,
                so N anchors make (N - 1)·(num_images - 1) + 1 images.
            closed: whether to return to the first anchor, which is not repeated: N·(num_images - 1) images, a loop without a jump.
            rescale: whether every point of the way has a standard deviation between those of its two anchors (their weighted
                geometric mean). For noises from [`invert`]: without this the stronger one covers the other on half of the way.
            class_labels: the class of all images, or a list of one for each anchor: on the way from one to the next the weight of
                the first falls evenly from one to zero. An anchor may come twice in a row, with another class.
            kwargs: arguments of the call (`num_inference_steps`, `output_type`, …).
        """
        anchors = [noise[None] if noise.ndim == 3 else noise for noise in anchors]
        if loading := _from_package("pipelines.loading"):
            loading.check_interpolation(self, anchors, num_images)
        anchors = torch.cat([noise.to(anchors[0].device, torch.float32) for noise in anchors])
        latents = noise_path(anchors, num_images, closed, rescale)
        class_labels = label_path(ClassLabels(self.unet), class_labels, len(anchors), num_images, closed)
        return self(batch_size=len(latents), latents=latents, class_labels=class_labels, **kwargs)

    @torch.no_grad()
    def invert(
        self,
        images,
        num_inference_steps: int | None = None,
        num_fixed_point_iterations: int = 3,
        class_labels: str | int | list | torch.Tensor | None = None,
        guidance_scale: float | None = None,
    ) -> torch.Tensor:
        """Finds the noise from which the deterministic sampler (η = 0) generates given images in as many steps.

        The steps of the sampler are undone one by one, the last first. Each is an implicit equation for the noisier state, solved
        by fixed-point iteration (see [`FlowerDDIMScheduler.invert_step`]) from the prediction for the state before.

        Args:
            images: what `preprocess` takes.
            num_inference_steps: steps of the sampler, any integer ≥ 1; generate with the same number. `None` as in the call.
            num_fixed_point_iterations: network evaluations per step, at least 1; see `docs/pictures.md` for what they buy.
            class_labels, guidance_scale: as in the call, and to be given to it again.

        Returns:
            Noise of shape (B, C, H, W), float32, for `latents`; its deviation is near one if the model knows such images.

        Raises:
            ValueError: for images that cannot be used, and for a scheduler that does not sample by the same steps.
        """
        if not hasattr(self.scheduler, "invert_step") or self.scheduler.config.clip_sample:
            raise ValueError(
                f"The steps of this {type(self.scheduler).__name__} cannot be inverted: put a FlowerDDIMScheduler with "
                "`clip_sample=False` into the pipeline, `FlowerDDIMScheduler.from_config(pipe.scheduler.config)` for instance."
            )
        if num_inference_steps is None:
            num_inference_steps = self.default_num_inference_steps
        if loading := _from_package("pipelines.loading"):
            loading.check_count("num_inference_steps", num_inference_steps)
            loading.check_count("num_fixed_point_iterations", num_fixed_point_iterations)
            loading.check_sampler(self, num_inference_steps, guidance_scale)
        device = self._execution_device
        latents = self.preprocess(images).to(device)
        predict = guided(self.unet, device, class_labels, guidance_scale, len(latents))
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        with self._unet_in_eval_mode(), self.progress_bar(total=num_inference_steps) as progress_bar:
            model_output = None
            for timestep in self.scheduler.timesteps.flip(0):
                target = latents
                if model_output is not None:  # that of the neighbouring state makes a good first guess, for nothing
                    latents = self.scheduler.invert_step(model_output, timestep, target, target)
                previous = None
                for _ in range(num_fixed_point_iterations):
                    model_output = predict(latents, timestep)
                    image = self.scheduler.invert_step(model_output, timestep, latents, target)
                    latents, previous = self._anderson_step(latents, image, previous)
                progress_bar.update()
        self.maybe_free_model_hooks()
        return self.postprocess(latents, "latent")

    @staticmethod
    def _anderson_step(guess: torch.Tensor, image: torch.Tensor, previous: tuple | None) -> tuple[torch.Tensor, tuple]:
        """The next guess of a fixed point, for every picture by itself: Anderson acceleration that remembers one iterate.

        Plain iteration takes the `image` of the guess. Two residuals together tell better where the fixed point lies (Walker & Ni
        2011, algorithm AA with m = 1): half the error for the same number of network evaluations.
        """
        residual = image - guess
        if previous is None:
            return image, (residual, image)
        previous_residual, previous_image = previous
        change = residual - previous_residual
        norm = change.square().sum((1, 2, 3), keepdim=True).clamp(min=torch.finfo(change.dtype).tiny)
        weight = (residual * change).sum((1, 2, 3), keepdim=True) / norm
        # Next to the fixed point the residuals are rounding errors, of which no large weight may be made.
        return image - weight.clamp(-2, 2) * (image - previous_image), (residual, image)

    def preprocess(self, images) -> torch.Tensor:
        """Turns pictures into model input (N, C, H, W), float32, (image - image_mean) / image_std: the inverse of [`postprocess`].

        Args:
            images: a picture or a list of pictures of any size: PIL images of any mode, arrays (H, W), (H, W, C) or
                (N, H, W, C), tensors (C, H, W) or (N, C, H, W); numbers are uint8 or floating point in [0, 1]. They are cropped
                around their centre, resized (bilinear, antialiased), and made grey or coloured as the model needs.

        Raises:
            ValueError: if there are no pictures, or for numbers out of range, NaN, and numbers of channels that make no sense.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        pictures = [picture for image in images for picture in pixels(image)]
        if not pictures:
            raise ValueError("`images` is empty: give at least one picture.")
        mean, std = self._statistics(torch.device("cpu"))
        return (torch.stack([fit_pixels(picture, *self.latent_shape) for picture in pictures]) - mean) / std

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is generated and of the noise that it is generated from."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @contextlib.contextmanager
    def _unet_in_eval_mode(self):
        was_training = self.unet.training
        self.unet.eval()
        try:
            yield
        finally:
            self.unet.train(was_training)

    def _step_kwargs(self, generator, eta: float) -> dict:
        """What the scheduler's `step` takes of `generator` and `eta`: stock schedulers differ."""
        parameters = inspect.signature(self.scheduler.step).parameters
        if eta and "eta" not in parameters:
            given = f"`eta` is {eta}, but {type(self.scheduler).__name__}"
            raise ValueError(f"{given} has no such setting: leave it at 0.")
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in parameters}

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the channels, shaped to go with images."""
        values = (torch.as_tensor(self.unet.config.get(name, 0.5)) for name in ("image_mean", "image_std"))
        return tuple(value.to(device, torch.float32).reshape(1, -1, 1, 1) for value in values)

    def postprocess(self, latents: torch.Tensor, output_type: str = "pil"):
        """De-standardises latents (B, C, H, W) and clips them to [0, 1], `output_type` as in the call; ValueError if not finite."""
        if not latents.isfinite().all():
            what = f"{type(self.scheduler).__name__} with {self.scheduler.num_inference_steps} steps led to numbers"
            raise ValueError(
                f"{what} that are not finite: take fewer steps, another solver, or sound weights in float32."
            )
        if output_type == "latent":
            return latents
        mean, std = self._statistics(latents.device)
        images = (latents * std + mean).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.permute(0, 2, 3, 1).cpu().numpy()
        return images if output_type == "np" else self.numpy_to_pil(images)
