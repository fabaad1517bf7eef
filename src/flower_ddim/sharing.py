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

from .model_files import PICKLE_REMEDY, ask_for_safetensors, pickle_hint, read_json_object


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
