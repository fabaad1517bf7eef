"""What this package adds to a pipeline that also runs without it: checks of folders and of calls, and errors of one sentence."""

import inspect
import json
import logging
import numbers
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from ..storage.hub_client import explain_hub_failure, first_line, hub_failure
from ..storage.json_objects import read_json_object
from ..storage.safe_loading import PICKLE_REMEDY


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
PUSHED_ANYWAY = (("safe_serialization", True), ("variant", None), ("subfolder", None))

# Scheduler classes that make the pictures of many DDIM steps in 20 steps from our configuration, the random ones pictures as sound,
# and what their `from_config` needs for it. `docs/solvers.md` has the measurements.
TESTED_SCHEDULERS = {
    "FlowerDDIMScheduler": {},
    "DDIMScheduler": {},
    "DDPMScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "UniPCMultistepScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "PNDMScheduler": {},
    "HeunDiscreteScheduler": {"use_karras_sigmas": True},
    "KDPM2DiscreteScheduler": {"use_karras_sigmas": True},
}
# A few-step student knows its own times only, and no method that looks back or ahead.
STUDENTS_SCHEDULERS = ("FlowerDDIMScheduler", "DDIMScheduler")
logger = logging.getLogger(__name__)
_warned_of = set()


def warn_of_untested(scheduler):
    """Logs a warning, once for each class, of a scheduler that is not known to make sound pictures."""
    name = type(scheduler).__name__
    needed = next(
        (TESTED_SCHEDULERS[c.__name__] for c in type(scheduler).__mro__ if c.__name__ in TESTED_SCHEDULERS), None
    )
    if name in _warned_of or (needed is not None and needed.items() <= scheduler.config.items()):
        return
    _warned_of.add(name)
    if needed is None:
        tested = ", ".join(TESTED_SCHEDULERS)
        logger.warning(f"{name} is not tested with this pipeline and may make poor pictures: choose among {tested}.")
    else:
        settings = ", ".join(f"{setting}={value}" for setting, value in needed.items())
        logger.warning(
            f"{name} makes poor pictures like this: take `{name}.from_config(pipe.scheduler.config, {settings})`."
        )


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns whatever diffusers raises while it loads the pipeline in `path` into one sentence with the remedy.

    Raises:
        FileNotFoundError: if `path` can only be a folder, and there is none.
        OSError: if files of the folder are missing or damaged, or the Hub cannot be reached or refuses.
        ValueError: if the folder holds another kind of pipeline, or files that no `save_pretrained` has written.
    """
    only_a_path = os.path.isabs(path) or path.startswith(".") or path.count("/") > 1
    if only_a_path and not os.path.isdir(path):
        raise FileNotFoundError(f"There is no folder {path}: name a saved pipeline's folder, or its id on the Hub.")
    try:
        yield
    except Exception as error:
        if not os.path.isdir(path) and (failure := hub_failure(error)):
            raise explain_hub_failure(failure, f"The pipeline {path} cannot be loaded from the Hub") from error
        if isinstance(error, OSError) and PICKLE_REMEDY not in str(error) and (hint := _pickle_hint(path)):
            raise OSError(f"{error}{hint}") from error
        if ("no file named diffusion_pytorch_model" in str(error) or "`variant=" in str(error)) and (
            hint := _variant_hint(path)
        ):
            raise OSError(hint) from error
        if isinstance(error, OSError) and "model_index.json" in str(error):
            raise OSError(f"{error} Name a folder that `save_pretrained` has written.") from error
        if isinstance(error, (OSError, ValueError, ImportError, NotImplementedError)):
            raise
        raise ValueError(
            f"The pipeline in {path} cannot be loaded ({type(error).__name__}: {first_line(error)}): if its files are damaged "
            "or of another version, download or save it again."
        ) from error


def check_folder(folder: str | Path, index: dict, components: Mapping[str, tuple[str, str, type]]):
    """Makes sure that a folder holds a pipeline of these components, and that their configurations are JSON objects.

    Args:
        index: what `model_index.json` says.
        components: for each name the module and class that are ours, and what any other class must derive from.

    Raises:
        OSError: if a configuration is not JSON.
        ValueError: if the components are others, or of a class that is no model or scheduler.
    """
    found = sorted(name for name, value in index.items() if isinstance(value, (list, tuple)))
    if found != sorted(components):
        raise ValueError(
            f"{folder} holds a {index.get('_class_name')} of {', '.join(found) or 'nothing'}, "
            "but this pipeline has a scheduler and a unet: load it with DiffusionPipeline.from_pretrained."
        )
    for name, (module, own_class, base) in components.items():
        _check_entry(name, index[name], module, own_class, base)
        for file in Path(folder).glob(f"{name}/*config.json"):
            try:
                read_json_object(file)  # diffusers would ask the Hub for anything else
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise OSError(f"{file} is not a valid JSON file ({error}): download or save it again.") from error


def _check_entry(name: str, entry, module: str, own_class: str, base: type):
    """Raises a ValueError for all but our class, and models or schedulers of a module that is imported already."""
    problem = f"`{name}` is {entry} in model_index.json, but must be [library, class] of a {base.__name__}"
    if len(entry) != 2 or not all(isinstance(part, str) and part for part in entry):
        raise ValueError(f"{problem}.")
    library, class_name = entry
    if library.rpartition(".")[2] == module.rpartition(".")[2]:
        if class_name != own_class:
            raise ValueError(f"{problem}, here {own_class}.")
        return
    named = getattr(sys.modules.get(library), class_name, None)
    if not (isinstance(named, type) and issubclass(named, base)):
        raise ValueError(f"{problem} that is already imported.")


def _pickle_hint(folder) -> str:
    """What to add to a message that there are no weights: how to convert the pickles in the folder or one below, if any."""
    pickles = sorted(str(file) for pattern in ("*.bin", "*/*.bin") for file in Path(folder).glob(pattern))
    return f" There is {', '.join(pickles)}, though. {PICKLE_REMEDY}" if pickles else ""


def _variant_hint(folder) -> str:
    """How to load the weights that there are, where those that were asked for are missing; empty if there are none."""
    weights = re.compile(r"diffusion_pytorch_model(?:\.([^.]+?))?(?:-\d{5}-of-\d{5})?\.safetensors")
    variants = {found[1] for file in Path(folder, "unet").glob("*") if (found := weights.fullmatch(file.name))}
    if not variants:
        return ""
    ways = [
        "leave `variant` out" if name is None else f'pass `variant="{name}"`' for name in sorted(variants, key=str)
    ]
    return f"{folder} holds other weights than those that were asked for: {' or '.join(ways)}."


def remove_earlier_weights(folder: Path, variant: str | None, safe_serialization: bool):
    """Removes what an earlier `save_pretrained` has left beside the weights that were just saved in this form.

    That is whatever else there is of the same variant, in one file or several, and of any variant an index of files that are gone.
    diffusers would load an index first and safetensors before pickles, whatever is newer.
    """
    places = {index: _files_of(index) for index in folder.glob("unet/diffusion_pytorch_model.*.index*.json")}
    for index, files in places.items():
        if not files or not all(file.exists() for file in files):  # diffusers removes them when it saves a single file
            index.unlink()
    ending, middle = "safetensors" if safe_serialization else "bin", f".{variant}" if variant else ""
    written = {folder / "unet" / f"diffusion_pytorch_model{middle}.{ending}"}
    index = folder / "unet" / f"diffusion_pytorch_model.{ending}.index{middle}.json"
    if index.exists():
        written = {index, *places[index]}
    one_of_them = re.compile(
        rf"diffusion_pytorch_model({re.escape(middle)}(-\d{{5}}-of-\d{{5}})?\.(bin|safetensors)"
        rf"|\.(bin|safetensors)\.index{re.escape(middle)}\.json)"
    )
    for file in (folder / "unet").iterdir():
        if one_of_them.fullmatch(file.name) and file not in written:
            file.unlink()


def _files_of(index: Path) -> set[Path]:
    """The files of weights that an index names; none if it is damaged."""
    try:
        return {index.parent / file for file in read_json_object(index)["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError):
        return set()


def upload_options(push: Callable, options: dict) -> dict:
    """Options of `push_to_hub` as `push` takes them, without those that only say what is done anyway.

    Raises:
        ValueError: for options that it does not take, with the way to do without.
    """
    if options.get("safe_serialization") is False:
        raise ValueError("`safe_serialization=False` would upload pickles, which nobody should load: leave it out.")
    options = {name: value for name, value in options.items() if (name, value) not in PUSHED_ANYWAY}
    if unknown := sorted(options.keys() - inspect.signature(push).parameters.keys()):
        raise ValueError(
            f"`push_to_hub` does not take `{'`, `'.join(unknown)}`: leave that out, or upload a folder that `save_pretrained` "
            "has written with `huggingface_hub.upload_folder(folder_path=…, repo_id=…)`."
        )
    return options


def check_call(pipe, batch_size: int, generator, latents, output_type: str, callback_tensor_inputs: list[str]):
    """Raises a ValueError for arguments of a pipeline's call that cannot be used."""
    if isinstance(batch_size, (str, list, tuple)):
        raise ValueError(f"`batch_size` is {batch_size!r}, but must be an integer >= 1: the model takes no prompt.")
    check_count("batch_size", batch_size)
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` is {output_type!r}, but must be one of {', '.join(OUTPUT_TYPES)}.")
    given = f"`callback_on_step_end_tensor_inputs` is {callback_tensor_inputs!r}"
    if not isinstance(callback_tensor_inputs, (list, tuple)):
        raise ValueError(f"{given}, but must be a list: {pipe._callback_tensor_inputs}, or [] for none.")
    if not all(name in pipe._callback_tensor_inputs for name in callback_tensor_inputs):
        raise ValueError(f"{given}, but only {pipe._callback_tensor_inputs} can be asked for.")
    if latents is not None:
        batch_size = latents.shape[0] if batch_size == 1 and getattr(latents, "ndim", 0) == 4 else batch_size
        check_latents(latents, (batch_size, *pipe.latent_shape), "latents")
    _check_generator(generator, batch_size)


def check_steps(num_inference_steps: int, eta: float, generator, batch_size: int):
    """Raises a ValueError for a number of steps, an η, or generators with which no scheduler can step."""
    check_count("num_inference_steps", num_inference_steps)
    if isinstance(eta, torch.Tensor) and eta.numel() == 1:
        eta = eta.item()
    if not isinstance(eta, numbers.Real) or not 0 <= eta <= 1:
        raise ValueError(f"`eta` is {eta!r}, but must be a number in [0, 1].")
    _check_generator(generator, batch_size)


def check_interpolation(pipe, anchors: list[torch.Tensor], num_images: int):
    """Raises a ValueError for noises that have no way between them, or a number of images that does not hold both ends."""
    if not isinstance(num_images, numbers.Integral) or num_images < 2:
        raise ValueError(f"`num_images` is {num_images!r}, but must be an integer >= 2: both ends are images too.")
    for i, noise in enumerate(anchors):
        check_latents(noise, (noise.shape[0], *pipe.latent_shape), f"anchors[{i}]")
    if (number := sum(map(len, anchors))) < 2:
        raise ValueError(f"{number} anchors were given, but it takes at least two to go from one to another.")


def check_count(name: str, value: int):
    """Raises a ValueError for all but whole numbers from 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` is {value!r}, but must be an integer >= 1.")


def check_latents(latents: torch.Tensor, expected: tuple[int, ...], name: str):
    """Raises a ValueError for what is no noise of this shape."""
    if not isinstance(latents, torch.Tensor):
        raise ValueError(f"`{name}` is a {type(latents).__name__}, but must be a tensor: draw it with `torch.randn`.")
    if tuple(latents.shape) != expected:
        raise ValueError(f"`{name}` has the shape {tuple(latents.shape)}, but must have {expected}.")
    if not latents.is_floating_point():
        raise ValueError(f"`{name}` has the dtype {latents.dtype}, but must be floating point noise.")
    if not latents.isfinite().all():
        raise ValueError(
            f"`{name}` holds numbers that are not finite: draw it with `torch.randn`, or find it with `invert`."
        )


def _check_generator(generator, batch_size: int):
    """Raises a ValueError for all but a generator, or as many as there are images."""
    for one in generator if isinstance(generator, (list, tuple)) else [generator]:
        if one is not None and not isinstance(one, torch.Generator):
            example = f"torch.Generator().manual_seed({one if isinstance(one, int) else 0})"
            raise ValueError(f"`generator` is made of {one!r}, but must be made of generators: give `{example}`.")
    if isinstance(generator, (list, tuple)) and len(generator) != batch_size:
        given = f"`generator` is a list of {len(generator)}, but {batch_size} images are asked for"
        raise ValueError(f"{given}: give one generator an image, or a single one.")


def is_student(unet) -> bool:
    """Whether a network was distilled, and so is for its default number of steps only."""
    return unet.config.get("distilled_guidance_scale") is not None


def check_sampler(pipe, num_inference_steps: int, guidance_scale: float | None):
    """Makes sure that a network and a scheduler go together, and warns where they may make poor pictures.

    Raises:
        ValueError: if they mean different noise by a timestep, or for what a few-step student cannot do.
    """
    check_schedule(pipe.unet, pipe.scheduler)
    if not is_student(pipe.unet):
        return warn_of_untested(pipe.scheduler)
    built_in, name = pipe.unet.config.distilled_guidance_scale, type(pipe.scheduler).__name__
    if name not in STUDENTS_SCHEDULERS:
        raise ValueError(
            f"This model has learned the steps of {' and '.join(STUDENTS_SCHEDULERS)}, not those of {name}: take its own scheduler."
        )
    if guidance_scale not in (None, 1):
        raise ValueError(
            f"`guidance_scale` is {guidance_scale!r}, but this model has guidance {built_in:g} built in: leave it out."
        )
    steps = pipe.default_num_inference_steps
    if num_inference_steps != steps and (steps, num_inference_steps) not in _warned_of:
        _warned_of.add((steps, num_inference_steps))
        logger.warning(f"This model has learned to make pictures in {steps} steps, not in {num_inference_steps}.")


def check_schedule(unet, scheduler):
    """Raises a ValueError where U-Net and scheduler mean different noise by a timestep, or predicted noise tells no image."""
    theirs = getattr(scheduler, "alphas_cumprod", None)
    if theirs is None:
        return
    # All signal rates of at most 0.001 are 0.001 in our table; other classes go lower.
    if scheduler.config.get("prediction_type") == "epsilon" and theirs[-1] < 1.01e-6:
        raise ValueError(
            "This schedule leaves no signal at its last timestep, where predicted noise (epsilon) says nothing of the image: "
            'use a network and a scheduler of `prediction_type="v_prediction"`, or another schedule.'
        )
    if not hasattr(unet, "schedule"):  # a stock U-Net, which knows of none
        return
    ours = unet.schedule.alphas_cumprod()
    # A stock scheduler's table is a cumulative product in float32; another schedule differs by far more.
    if len(ours) != len(theirs) or (ours - theirs.cpu()).abs().max() > 1e-3:
        raise ValueError(
            f"The U-Net was made for another noise schedule, {unet.schedule}, than the scheduler: make that with "
            "FlowerDDIMScheduler(schedule=…, …), and stock ones with `from_config` from its configuration."
        )
