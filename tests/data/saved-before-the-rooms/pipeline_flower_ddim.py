"""Pipeline that generates images with a U-Net and a DDIM scheduler, interpolates between noises and inverts images."""

import contextlib
import inspect
import math
import numbers
from collections.abc import Callable

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

# diffusers loads a component only from a module that is already imported.


# From images.py.
"""Pictures as people have them, turned into what a model takes; for training and for `FlowerDDIMPipeline.preprocess`."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps


def upright_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit RGB picture of one of any mode: turned as its EXIF data says, 16 bits scaled down, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would cut off at 255
        values = np.asarray(image).astype(np.uint32)
        if image.mode != "I" or values.max() > 255:  # that one is also what 8 bits may be kept in
            values >>= 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def pixels(image) -> torch.Tensor:
    """A picture, or a batch of them in an array, as float32 tensor (N, C, H, W) in [0, 1]."""
    if isinstance(image, Image.Image):
        image = np.asarray(upright_rgb(image))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.array(image))
        image = image[..., None] if image.ndim == 2 else image
        image = image.movedim(-1, -3) if image.ndim in (3, 4) else image
    if not isinstance(image, torch.Tensor) or image.ndim not in (3, 4):
        what = getattr(image, "shape", None) or type(image).__name__
        raise ValueError(
            f"{what} is no picture: give PIL images, arrays (H, W, C) or tensors (C, H, W), or lists of them."
        )
    image = image[None] if image.ndim == 3 else image
    if image.dtype == torch.uint8:
        return image.float() / 255
    if not image.is_floating_point() or not ((image >= 0) & (image <= 1)).all():
        raise ValueError(
            f"`images` hold {image.dtype} numbers that are not all in [0, 1] or are not finite: give uint8, or divide "
            "by their range."
        )
    return image.float()


def fit_pixels(pictures: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """Cuts, resizes and colours pictures (N, C, H, W) to what the model takes."""
    if 0 in pictures.shape or pictures.shape[1] not in (1, 3, channels):
        raise ValueError(
            f"A picture has the shape {tuple(pictures.shape[1:])} of channels, height and width, but it needs 1, 3 or "
            f"{channels} channels and at least one pixel."
        )
    if channels == 1 and pictures.shape[1] == 3:
        luma = torch.tensor([0.299, 0.587, 0.114], device=pictures.device)  # ITU-R BT.601, as in Pillow
        pictures = torch.einsum("nchw,c->nhw", pictures, luma)[:, None]
    scale = min(pictures.shape[2] / height, pictures.shape[3] / width)
    crop_height, crop_width = max(1, round(scale * height)), max(1, round(scale * width))
    top, left = (pictures.shape[2] - crop_height) // 2, (pictures.shape[3] - crop_width) // 2
    pictures = pictures[:, :, top : top + crop_height, left : left + crop_width]
    if pictures.shape[2:] != (height, width):
        pictures = F.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
    return pictures.cpu().expand(-1, channels, -1, -1)


# From sharing.py.
"""Pipelines that load with this package and without it: a saved folder holds the code that loads it, one file for each class."""

import ast
import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType

from diffusers import DDIMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin

# `HTTPError` is that of the HTTP library that the client is built on, which is not always the same.
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)



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


PACKAGE = __name__.rpartition(".")[0]
PIPELINE_MODULE = "pipeline_flower_ddim"

# Component -> the module of this package that may define it, the class there, and what any other class must derive from.
COMPONENTS = {
    "unet": ("unet_flower_ddim", "FlowerUNet2DModel", ModelMixin),
    "scheduler": ("scheduling_flower_ddim", "FlowerDDIMScheduler", SchedulerMixin),
}


class _StandIn(ModuleType):
    """What is found in `sys.modules` in place of a component's file while a pipeline is loaded."""


class SharedPipeline(DiffusionPipeline):
    """A pipeline of a U-Net and a scheduler that is saved together with its code.

    The folder loads through [`from_pretrained`], which runs nothing but this package's own code, and elsewhere through
    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`. `model_index.json` names files of the folder
    (`["unet_flower_ddim", "FlowerUNet2DModel"]`), which are mapped to the modules of this package on the way in.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads a pipeline from a folder, or from the Hub by id; see `DiffusionPipeline.from_pretrained`.

        No code of the folder is run, and of weights only safetensors are read.

        Raises:
            FileNotFoundError: if what can only be a path is no folder.
            OSError: if files of the folder are missing or damaged, or the Hub cannot be reached or refuses.
            ValueError: if it holds another kind of pipeline, or pickled weights are asked for.
        """
        path = os.fspath(pretrained_model_name_or_path)
        only_a_path = os.path.isabs(path) or path.startswith(".") or path.count("/") > 1
        if only_a_path and not os.path.isdir(path):
            raise FileNotFoundError(
                f"There is no folder {path}: name a saved pipeline's folder, or its id on the Hub."
            )
        ask_for_safetensors(kwargs)
        try:
            return super().from_pretrained(path, **kwargs)
        except Exception as error:
            if not os.path.isdir(path) and (failure := hub_failure(error)):
                raise explain_hub_failure(failure, f"The pipeline {path} cannot be loaded from the Hub") from error
            if isinstance(error, OSError) and PICKLE_REMEDY not in str(error) and (hint := pickle_hint(path)):
                raise OSError(f"{error}{hint}") from error
            if isinstance(error, (OSError, ValueError, ImportError, NotImplementedError)):
                raise
            # What diffusers and PyTorch make of files that no `save_pretrained` has written.
            raise ValueError(
                f"The pipeline in {path} cannot be loaded ({type(error).__name__}: {first_line(error)}): if its files are damaged "
                "or of another version, download or save it again."
            ) from error

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """Reads `model_index.json`; the class is known here, so the file that defines it elsewhere is not asked for."""
        config = read_json_object(json_file)
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        return config

    @classmethod
    def load_config(cls, pretrained_model_name_or_path, **kwargs):
        """Reads `model_index.json`, and refuses that of a pipeline with other components."""
        try:
            config = super().load_config(pretrained_model_name_or_path, **kwargs)
        except OSError as error:
            raise OSError(f"{error} Name a folder that `save_pretrained` has written.") from error
        components = sorted(name for name, value in config.items() if isinstance(value, (list, tuple)))
        if components != sorted(COMPONENTS):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {config.get('_class_name')} of {', '.join(components) or 'nothing'}, "
                "but this pipeline has a scheduler and a unet: load it with DiffusionPipeline.from_pretrained."
            )
        for name in COMPONENTS:
            config[name] = _installed(name, config[name])
            for file in Path(pretrained_model_name_or_path).glob(f"{name}/*config.json"):
                try:
                    read_json_object(file)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise OSError(f"{file} is not a valid JSON file ({error}): download or save it again.") from error
        return config

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        # A component passed to `from_pretrained` is compared with the class that model_index.json names, which diffusers looks for
        # in `sys.modules`, also where it is but a file of the folder. Until the pipeline is made, any model or scheduler will do.
        for name, (stem, class_name, base) in COMPONENTS.items():
            if config_dict.get(name) is not None and config_dict[name][0] == stem and stem not in sys.modules:
                sys.modules[stem] = stand_in = _StandIn(stem)
                for known_as in (class_name, base.__name__):
                    setattr(stand_in, known_as, base)
        return super().extract_init_dict(config_dict, **kwargs)

    def __init__(self):
        super().__init__()
        for stem, _, _ in COMPONENTS.values():
            if isinstance(sys.modules.get(stem), _StandIn):
                del sys.modules[stem]

    def save_pretrained(self, save_directory, *args, push_to_hub: bool = False, **kwargs):
        """Saves the pipeline and its code, see `DiffusionPipeline.save_pretrained`.

        Args:
            save_directory: the folder.
            push_to_hub: whether to upload it too, by [`push_to_hub`] with its arguments among `kwargs`; `repo_id` is the name of
                the folder unless it is given.
        """
        for_the_hub = ("repo_id", "commit_message", "private", "token", "create_pr")
        hub_options = {name: kwargs.pop(name) for name in for_the_hub if name in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)
        if push_to_hub:
            self.push_to_hub(hub_options.pop("repo_id", Path(save_directory).name), **hub_options)

    def save_config(self, save_directory, **kwargs):
        """Writes `model_index.json`, and the code: the pipeline's beside it, the components' in their folders."""
        super().save_config(save_directory, **kwargs)
        folder = Path(save_directory)
        for file in (folder / self.config_name, folder / "unet" / self.unet.config_name):
            config = json.loads(file.read_text())
            config.pop("_name_or_path", None)  # where it was loaded from is nobody else's business
            if file.name == self.config_name:
                config |= self._write_code(folder, config)
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    def _write_code(self, folder: Path, index: dict) -> dict[str, list[str]]:
        """Writes the modules of the pipeline and its components; returns what `model_index.json` has to say of them."""
        entries = {}
        for name, (stem, class_name, _) in COMPONENTS.items():
            library = index[name][0]
            if library.rpartition(".")[2] == stem:
                entries[name] = [_write_standalone(library, folder / name), class_name]
        if type(self).__module__.rpartition(".")[2] == PIPELINE_MODULE:  # and not a class that somebody derived
            entries["_class_name"] = [_write_standalone(type(self).__module__, folder), type(self).__name__]
        return entries

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Uploads the pipeline with a model card; see [`flower_ddim.hub.push_pipeline`]. Returns the address of the commit."""
        try:
            hub = importlib.import_module("flower_ddim.hub")
        except ModuleNotFoundError:
            # A model folder's copy of this code knows no card but diffusers' blank one.
            return super().push_to_hub(repo_id, **kwargs)
        return hub.push_pipeline(self, repo_id, **kwargs)

    def export_to_diffusers(self, save_directory):
        """Saves the same weights with diffusers' own `DDIMScheduler`, for those who want none of this package but the U-Net.

        `unet/unet_flower_ddim.py` needs nothing but diffusers: copied beside a program with a loop of its own, it gives
        `FlowerUNet2DModel.from_pretrained(folder, subfolder="unet")`, to go with `DDIMScheduler.from_pretrained(folder,
        subfolder="scheduler")`, which is exact where the number of steps divides 1,000. The folder holds our pipeline all the
        same, because none of diffusers' knows of the channel statistics (`image_mean`, `image_std`) that make pictures of what
        the network generates.
        """
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        type(self)(self.unet, scheduler).save_pretrained(save_directory)


def _installed(name: str, entry) -> list[str]:
    """What `model_index.json` says of a component, `[library, class]`, checked, and with our own modules for ours.

    Raises:
        ValueError: for anything but our class, and a model or scheduler of a module that is already imported.
    """
    stem, own_class, base = COMPONENTS[name]
    problem = f"`{name}` is {entry} in model_index.json, but must be [library, class] of a {base.__name__}"
    if len(entry) != 2 or not all(isinstance(part, str) and part for part in entry):
        raise ValueError(f"{problem}.")
    library, class_name = entry
    if library.rpartition(".")[2] == stem:
        if class_name != own_class:
            raise ValueError(f"{problem}, here {own_class}.")
        # A copy of this code that runs without the package may not have loaded this component yet.
        return [f"{PACKAGE}.{stem}" if f"{PACKAGE}.{stem}" in sys.modules else library, class_name]
    named = getattr(sys.modules.get(library), class_name, None)
    if not (isinstance(named, type) and issubclass(named, base)):
        raise ValueError(f"{problem} that is already imported.")
    return [library, class_name]


def standalone_source(file: str | Path) -> str:
    """Source of a module of this package, with the source of its siblings in place of `from .sibling import name`.

    `from . import sibling`, which only sees to it that a module is loaded, is left out. What stands alone already stays as it is.
    """
    return "\n".join(_standalone_lines(Path(file), set())) + "\n"


def _standalone_lines(file: Path, done: set[Path]) -> list[str]:
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):  # from the end, so that line numbers stay true
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            sibling = file.with_name(f"{node.module}.py")
            inlined = []
            if node.module is not None and sibling not in done:
                done.add(sibling)
                inlined = ["", "", f"# From {sibling.name}.", *_standalone_lines(sibling, done)]
            lines[node.lineno - 1 : node.end_lineno] = inlined
    return lines


def _write_standalone(module_name: str, folder: Path) -> str:
    """Writes a module so that it stands alone; returns its name without the package."""
    stem = module_name.rpartition(".")[2]
    source = standalone_source(
        sys.modules[module_name].__file__
    )  # before the file is opened: it may be its own source
    (folder / f"{stem}.py").write_text(source, encoding="utf-8")
    return stem


def hub_failure(error: BaseException | None) -> Exception | None:
    """The failure of the Hub, or of the way to it, that an error comes from; `None` if it comes from something else."""
    kinds = (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError)
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


def explain_hub_failure(failure: Exception, what: str) -> OSError:
    """One sentence for what the Hub's client raises, whose own messages run over many lines and may not name the remedy."""
    status = failure.response.status_code if isinstance(failure, HfHubHTTPError) else None
    if isinstance(failure, GatedRepoError):
        return OSError(f"{what} ({status}): ask for access on its page, then log in with `hf auth login`.")
    # What is not there the Hub answers with 401 to those whom it does not know.
    if isinstance(failure, RepositoryNotFoundError) or status == 404:
        return OSError(f"{what} ({status}): check the name, and log in with `hf auth login` if it is private.")
    if status in (401, 403):
        return OSError(f"{what} ({status}): log in with `hf auth login`, or give a token that is allowed to.")
    if status == 429 or (status or 0) >= 500:
        return OSError(f"{what}: the Hub answered {status}, so try again later.")
    if status is not None:
        reason = getattr(failure, "server_message", None) or first_line(failure)
        return OSError(f"{what}: the Hub answered {status} ({reason.rstrip('.')}), so check what was asked for.")
    if isinstance(failure, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return OSError(
            f"{what}: it is not in the cache, and the Hub is not asked or does not answer (HF_HUB_OFFLINE)."
        )
    return OSError(f"{what}: the Hub cannot be reached ({first_line(failure)}), so check the connection.")


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class FlowerDDIMPipeline(SharedPipeline):
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
                (batch_size, *self.latent_shape), generator=generator, device=device, dtype=torch.float32
            )
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        latents = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma
        step_kwargs = self._step_kwargs(generator, eta)

        with self._unet_in_eval_mode(), self.progress_bar(total=len(timesteps)) as progress_bar:
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

        images = latents if output_type == "latent" else self.postprocess(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def interpolate(
        self, *anchors: torch.Tensor, num_images: int = 11, closed: bool = False, rescale: bool = False, **kwargs
    ) -> ImagePipelineOutput | tuple:
        """Generates the images on the way from one noise to the next, along a·cos(πw/2) + b·sin(πw/2) for w from 0 to 1.

        On this path the variance stays at one where that of the ends is one, so every point of it is a noise that the model knows;
        on a straight line it would fall to a half.

        Args:
            anchors: two or more noises, shape (C, H, W) or (1, C, H, W) each, or (N, C, H, W) for several of them.
            num_images: number of images from one anchor to the next, both included, at least 2. An anchor between two
                sections appears once, so N anchors make (N - 1)·(num_images - 1) + 1 images.
            closed: whether to go on from the last anchor to the first, which is not repeated at the end: N·(num_images - 1)
                images, an animation without a jump.
            rescale: whether every point of the way is given the standard deviation between those of its two anchors (their
                weighted geometric mean). For noises from [`invert`], whose deviations differ from one and from each other:
                without this the stronger one covers the other over half of the way.
            kwargs: what generation takes (`num_inference_steps`, `output_type`, …).
        """
        if not isinstance(num_images, numbers.Integral) or num_images < 2:
            raise ValueError(f"`num_images` is {num_images!r}, but must be an integer >= 2: both ends are images too.")
        noises = []
        for i, noise in enumerate(anchors):
            noise = noise[None] if noise.ndim == 3 else noise
            self._check_latents(noise, noise.shape[0], f"anchors[{i}]")
            noises.extend(noise.to(anchors[0].device, torch.float32))
        if len(noises) < 2:
            raise ValueError(f"{len(noises)} anchors were given, but it takes at least two to go from one to another.")
        latents = self._path(torch.stack(noises), num_images, closed, rescale)
        return self(batch_size=len(latents), latents=latents, **kwargs)

    @staticmethod
    def _path(anchors: torch.Tensor, num_images: int, closed: bool, rescale: bool) -> torch.Tensor:
        """The noises that [`interpolate`] generates from, shape (number of images, C, H, W)."""
        # Without its last point, a section does not repeat the first one of the next.
        weights = torch.linspace(0, 1, num_images, device=anchors.device)[:-1].reshape(-1, 1, 1, 1)
        cos, sin = torch.cos(weights * (math.pi / 2)), torch.sin(weights * (math.pi / 2))
        scales = anchors.std((1, 2, 3), keepdim=True) if rescale else torch.ones_like(anchors[:, :1, :1, :1])
        directions = anchors / scales
        following = directions.roll(-1, 0), scales.roll(-1, 0)  # the last section leads back to the first anchor
        sections = [
            (cos * a + sin * b) * scale_a ** (1 - weights) * scale_b**weights
            for a, scale_a, b, scale_b in zip(directions, scales, *following, strict=True)
        ]
        return torch.cat(sections if closed else [*sections[:-1], anchors[-1:]])

    @torch.no_grad()
    def invert(self, images, num_inference_steps: int = 20, num_fixed_point_iterations: int = 3) -> torch.Tensor:
        """Finds the noise from which the deterministic sampler (η = 0) generates given images in as many steps.

        The steps of the sampler are undone one by one, the last first. Each is an implicit equation for the noisier state,
        solved by fixed-point iteration (see [`FlowerDDIMScheduler.invert_step`]) from what was predicted one state before; nothing
        is clipped. The first one undone yields the image: there the noise that the network itself sees is put back.

        Args:
            images: what `preprocess` takes.
            num_inference_steps: steps of the sampler, any integer ≥ 1; generate with the same number.
            num_fixed_point_iterations: network evaluations per step, at least 1; see `docs/pictures.md` for what they buy.

        Returns:
            Noise of shape (B, C, H, W), float32, for `latents` of the call. Its standard deviation is near one only if the model
            knows images like these well.

        Raises:
            ValueError: for images that cannot be used, and for a scheduler that does not sample by the same steps.
        """
        if not hasattr(self.scheduler, "invert_step") or self.scheduler.config.clip_sample:
            raise ValueError(
                f"The steps of this {type(self.scheduler).__name__} cannot be inverted: put a FlowerDDIMScheduler with "
                "`clip_sample=False` into the pipeline, `FlowerDDIMScheduler.from_config(pipe.scheduler.config)` for instance."
            )
        for name, value in (
            ("num_inference_steps", num_inference_steps),
            ("num_fixed_point_iterations", num_fixed_point_iterations),
        ):
            self._check_count(name, value)
        self._check_schedule()
        device = self._execution_device
        latents = self.preprocess(images).to(device)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        with self._unet_in_eval_mode(), self.progress_bar(total=num_inference_steps) as progress_bar:
            model_output = None
            for timestep in self.scheduler.timesteps.flip(0):
                target = latents
                if model_output is not None:  # that of the neighbouring state makes a good first guess, for nothing
                    latents = self.scheduler.invert_step(model_output, timestep, target, target)
                previous = None
                for _ in range(num_fixed_point_iterations):
                    model_output = self.unet(latents.to(self.unet.dtype), timestep, return_dict=False)[0]
                    image = self.scheduler.invert_step(model_output, timestep, latents, target)
                    latents, previous = self._accelerate(latents, image, previous)
                progress_bar.update()
        self.maybe_free_model_hooks()
        return latents

    @staticmethod
    def _accelerate(guess: torch.Tensor, image: torch.Tensor, previous: tuple | None) -> tuple[torch.Tensor, tuple]:
        """The next guess of a fixed point, for every picture by itself: Anderson acceleration that remembers one iterate.

        Plain iteration takes the `image` of the guess under the map. Two residuals together tell more nearly where the fixed point
        lies (Walker & Ni 2011, algorithm AA with m = 1): half the error for the same number of network evaluations.
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
        """Turns pictures into standardised model input: the inverse of what generation does to its latents.

        Pictures are cut to the proportions of the model around their centre, resized (bilinear, antialiased), and made grey or
        coloured as the model needs.

        Args:
            images: a picture or a list of pictures of any size: PIL images of any mode, arrays (H, W), (H, W, C) or
                (N, H, W, C), tensors (C, H, W) or (N, C, H, W); numbers are uint8 or floating point in [0, 1].

        Returns:
            Tensor of shape (N, C, H, W), float32: (image - image_mean) / image_std.

        Raises:
            ValueError: if there are no pictures, or for numbers out of range, NaN, and numbers of channels that make no sense.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        pictures = [picture for image in images for picture in pixels(image)]
        if not pictures:
            raise ValueError("`images` is empty: give at least one picture.")
        mean, std = self._statistics(torch.device("cpu"))
        return (torch.cat([fit_pixels(picture[None], *self.latent_shape) for picture in pictures]) - mean) / std

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is generated and of the noise that it is generated from."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    def _check_inputs(
        self, batch_size, generator, num_inference_steps, eta, latents, output_type, callback_tensor_inputs
    ) -> int:
        """Raises a ValueError for arguments that cannot be used; returns the number of images."""
        self._check_count("batch_size", batch_size)
        self._check_count("num_inference_steps", num_inference_steps)
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
        self._check_schedule()
        return batch_size

    @staticmethod
    def _check_count(name: str, value: int):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` is {value!r}, but must be an integer >= 1.")

    def _check_schedule(self):
        """Raises a ValueError where the U-Net and the scheduler mean different noise by the same timestep."""
        if not hasattr(self.unet, "schedule"):  # a stock U-Net, which knows of none
            return
        ours, theirs = self.unet.schedule.alphas_cumprod(), getattr(self.scheduler, "alphas_cumprod", None)
        # A stock scheduler's table is a cumulative product in float32; another schedule differs by far more.
        if theirs is not None and (len(ours) != len(theirs) or (ours - theirs.cpu()).abs().max() > 1e-3):
            raise ValueError(
                f"The U-Net was made for another noise schedule, {self.unet.schedule}, than the scheduler: make that with "
                "FlowerDDIMScheduler(schedule=…, min_signal_rate=…, max_signal_rate=…), and stock ones with "
                "`from_config` from its configuration."
            )

    def _check_latents(self, latents: torch.Tensor, batch_size: int, name: str):
        expected = (batch_size, *self.latent_shape)
        if tuple(latents.shape) != expected:
            raise ValueError(f"`{name}` has the shape {tuple(latents.shape)}, but must have {expected}.")
        if not latents.is_floating_point():
            raise ValueError(f"`{name}` has the dtype {latents.dtype}, but must be floating point noise.")

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
            raise ValueError(
                f"`eta` is {eta}, but {type(self.scheduler).__name__} has no such setting: leave it at 0."
            )
        step_kwargs = {"eta": eta, "generator": generator}
        return {name: value for name, value in step_kwargs.items() if name in parameters}

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the channels, shaped to go with images."""
        values = (torch.as_tensor(self.unet.config.get(name, 0.5)) for name in ("image_mean", "image_std"))
        return tuple(value.to(device, torch.float32).reshape(1, -1, 1, 1) for value in values)

    def postprocess(self, latents: torch.Tensor, output_type: str = "pil"):
        """De-standardises latents (B, C, H, W) and clips them to [0, 1]: `"pil"`, `"np"` or `"pt"` as in the call."""
        mean, std = self._statistics(latents.device)
        images = (latents * std + mean).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.permute(0, 2, 3, 1).cpu().numpy()
        return images if output_type == "np" else self.numpy_to_pil(images)
