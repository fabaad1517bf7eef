"""Pipelines that load with this package and without it: a saved folder holds the code that loads it, one file for each class."""

import importlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

from ..storage.safe_loading import ask_for_safetensors, read_json_object


PIPELINE_MODULE = "pipeline_flower_ddim"

# Component -> the module of the package that defines it, its class, and what any other class must derive from. In a saved folder
# the module's file has the last part of its name.
COMPONENTS = {
    "unet": ("flower_ddim.models.unet_flower_ddim", "FlowerUNet2DModel", ModelMixin),
    "scheduler": ("flower_ddim.schedulers.scheduling_flower_ddim", "FlowerDDIMScheduler", SchedulerMixin),
}


class _StandIn(ModuleType):
    """Takes the place of a component's file in `sys.modules` while a pipeline is loaded."""


class PortablePipeline(DiffusionPipeline):
    """A pipeline of a U-Net and a scheduler that is saved together with its code.

    The folder loads through [`from_pretrained`], which runs only this package's own code, and elsewhere through
    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`. `model_index.json` names files of the folder
    (`["unet_flower_ddim", "FlowerUNet2DModel"]`); loading maps them to the modules of this package.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads a pipeline from a folder, or from the Hub by id; see `DiffusionPipeline.from_pretrained`.

        It runs no code of the folder, and reads only safetensors.

        Raises:
            OSError: if files of the folder are missing or damaged, or the Hub cannot be reached or refuses.
            ValueError: if it holds another kind of pipeline, or for `use_safetensors=False`.
        """
        ask_for_safetensors(kwargs)
        path = os.fspath(pretrained_model_name_or_path)
        loading = _from_package("pipelines.loading")
        with loading.explained(path) if loading else nullcontext():
            return super().from_pretrained(path, **kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """Reads `model_index.json`; the class is known here, so its file in the folder is not needed."""
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
            config[name] = _resolve_component(name, config[name])
        if loading := _from_package("pipelines.loading"):
            loading.check_configurations(pretrained_model_name_or_path, COMPONENTS)
        return config

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        # diffusers compares a component that is passed to `from_pretrained` with the class that model_index.json names, and looks
        # for that class in `sys.modules`, even where it is a file of the folder. Until the pipeline exists, any model will do.
        for name, (module, class_name, base) in COMPONENTS.items():
            stem = _stem(module)
            if config_dict.get(name) is not None and config_dict[name][0] == stem and stem not in sys.modules:
                sys.modules[stem] = stand_in = _StandIn(stem)
                for known_as in (class_name, base.__name__):
                    setattr(stand_in, known_as, base)
        return super().extract_init_dict(config_dict, **kwargs)

    def __init__(self):
        super().__init__()
        for module, _, _ in COMPONENTS.values():
            if isinstance(sys.modules.get(_stem(module)), _StandIn):
                del sys.modules[_stem(module)]

    def save_pretrained(self, save_directory, *args, push_to_hub: bool = False, **kwargs):
        """Saves the pipeline and its code, see `DiffusionPipeline.save_pretrained`.

        Args:
            save_directory: the folder.
            push_to_hub: whether to upload it, too, by [`push_to_hub`] with its arguments among `kwargs`; `repo_id` is the name of
                the folder by default.
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
            config.pop("_name_or_path", None)  # it would tell strangers where the folder lay
            if file.name == self.config_name:
                config |= self._write_code(folder, config)
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    def _write_code(self, folder: Path, index: dict) -> dict[str, list[str]]:
        """Writes the modules of the pipeline and of its components; returns their entries of `model_index.json`."""
        entries = {}
        for name, (module, class_name, _) in COMPONENTS.items():
            if _stem(index[name][0]) == _stem(module):
                entries[name] = [_write_module(index[name][0], folder / name), class_name]
        if _stem(type(self).__module__) == PIPELINE_MODULE:  # not a class that somebody derived from it
            entries["_class_name"] = [_write_module(type(self).__module__, folder), type(self).__name__]
        return entries

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Uploads the pipeline with a model card; see [`flower_ddim.hub.upload.push_pipeline`]. Returns the commit's address."""
        upload = _from_package("hub.upload")
        if upload is None:  # diffusers writes a blank card
            return super().push_to_hub(repo_id, **kwargs)
        return upload.push_pipeline(self, repo_id, **kwargs)


def _from_package(module: str) -> ModuleType | None:
    """A module of the installed package by its name, or `None` where this code runs as a copy in a saved folder, without it.

    An import statement would not do. A copy would fail where the package is missing, everything imported here is written into
    every copy, and what uploads a pipeline lies above it: the package's imports run one way.
    """
    try:
        return importlib.import_module(f"flower_ddim.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "flower_ddim":  # an extra is missing, say
            raise
        return None


def _resolve_component(name: str, entry) -> list[str]:
    """An entry `[library, class]` of `model_index.json`, checked, and with the module that defines our class where it is ours.

    Raises:
        ValueError: for anything but our class, or a model or scheduler of a module that is imported already.
    """
    module, own_class, base = COMPONENTS[name]
    problem = f"`{name}` is {entry} in model_index.json, but must be [library, class] of a {base.__name__}"
    if len(entry) != 2 or not all(isinstance(part, str) and part for part in entry):
        raise ValueError(f"{problem}.")
    library, class_name = entry
    if _stem(library) == _stem(module):
        if class_name != own_class:
            raise ValueError(f"{problem}, here {own_class}.")
        # In a saved folder the files lie side by side. A copy that runs there may not have loaded this component yet.
        sibling = f"{__name__.rpartition('.')[0]}.{_stem(module)}"
        return [next((m for m in (sibling, module) if m in sys.modules), library), class_name]
    named = getattr(sys.modules.get(library), class_name, None)
    if not (isinstance(named, type) and issubclass(named, base)):
        raise ValueError(f"{problem} that is already imported.")
    return [library, class_name]


def _write_module(module: str, folder: Path) -> str:
    """Writes a module so that it stands alone, as a copy already does; returns its name without the package."""
    file = Path(sys.modules[module].__file__)
    inlining = _from_package("pipelines.inlining")
    # Read before the file is opened for writing: it may be its own source.
    source = inlining.standalone_source(file) if inlining else file.read_text(encoding="utf-8")
    (folder / f"{_stem(module)}.py").write_text(source, encoding="utf-8")
    return _stem(module)


def _stem(module: str) -> str:
    return module.rpartition(".")[2]
