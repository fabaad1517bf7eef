"""Pipelines that load with this package and without it: a saved folder holds the code that loads it, one file for each class."""

import importlib
import json
import os
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

from ..storage.safe_loading import ask_for_safetensors


# Component -> the module of the package that defines it, its class, and what any other class must derive from. In a saved folder
# the module's file has the last part of its name.
COMPONENTS = {
    "unet": ("flower_ddim.models.unet_flower_ddim", "FlowerUNet2DModel", ModelMixin),
    "scheduler": ("flower_ddim.schedulers.scheduling_flower_ddim", "FlowerDDIMScheduler", SchedulerMixin),
}


class _Hidden(dict):
    """A dictionary of which one can tell when it is gone."""


class PortablePipeline(DiffusionPipeline):
    """A pipeline of a U-Net and a scheduler that is saved together with its code.

    The folder loads through [`from_pretrained`], which runs only this package's own code, and elsewhere through
    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads a pipeline from a folder, or from the Hub by id; runs no code of the folder, and reads only safetensors.

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
    def from_pipe(cls, pipeline, **kwargs):
        """A pipeline around the same network and scheduler, in the dtype that they have; those among `kwargs` take their place."""
        parts = {name: kwargs.pop(name, getattr(pipeline, name)) for name in COMPONENTS}
        if kwargs:
            return super().from_pipe(pipeline, **parts, **kwargs)
        other = cls(**parts)  # diffusers would turn the network that both share into float32
        other.register_to_config(_name_or_path=pipeline.name_or_path)
        return other

    @classmethod
    def _dict_from_json_file(cls, json_file):
        # The class is known here, so its file in the folder is not needed.
        config = super()._dict_from_json_file(json_file)
        name = config["_class_name"]
        config.pop("auto_map", None)  # it is for `AutoModel`
        return config | {"_class_name": name[-1] if isinstance(name, list) else name}

    @classmethod
    def load_config(cls, pretrained_model_name_or_path, **kwargs):
        """Reads `model_index.json`, and maps the files that it names to modules that are loaded already."""
        config = super().load_config(pretrained_model_name_or_path, **kwargs)
        if loading := _from_package("pipelines.loading"):
            loading.check_folder(pretrained_model_name_or_path, config, COMPONENTS)
        for name, (module, _, _) in COMPONENTS.items():
            if _stem(config[name][0]) == _stem(module):
                # In a saved folder the files lie side by side. A copy that runs there may not have loaded this component yet.
                sibling = f"{__name__.rpartition('.')[0]}.{_stem(module)}"
                loaded = (known_as for known_as in (sibling, module) if known_as in sys.modules)
                config[name] = [next(loaded, config[name][0]), config[name][1]]
        return config

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        # diffusers compares a component that is passed to `from_pretrained` with the class that model_index.json names, and looks
        # for that class in `sys.modules`, even where it is a file of the folder. Until it has loaded, any model will do.
        config_dict = {name: value for name, value in config_dict.items() if name != "auto_map"}
        init_dict, unused, hidden = super().extract_init_dict(config_dict, **kwargs)
        hidden = _Hidden(hidden)
        for name, (module, class_name, base) in COMPONENTS.items():
            stem = _stem(module)
            if config_dict.get(name) is not None and config_dict[name][0] == stem and stem not in sys.modules:
                sys.modules[stem] = stand_in = ModuleType(stem)
                stand_in.__dict__.update({class_name: base, base.__name__: base})
                weakref.finalize(
                    hidden, sys.modules.pop, stem, None
                )  # diffusers holds it until it has loaded or failed
        return init_dict, unused, hidden

    def save_pretrained(
        self, save_directory, safe_serialization=True, variant=None, max_shard_size=None, push_to_hub=False, **kwargs
    ):
        """Saves the pipeline and its code; `push_to_hub=True` also calls [`push_to_hub`] with its arguments among `kwargs`."""
        for_the_hub = "repo_id commit_message private token create_pr keep_card overwrite_card dataset license records"
        hub_options = {name: kwargs.pop(name) for name in for_the_hub.split() if name in kwargs}
        hub_options |= {"safe_serialization": safe_serialization, "variant": variant}
        loading, upload = _from_package("pipelines.loading"), _from_package("hub.upload") if push_to_hub else None
        if upload:  # what cannot be uploaded is not saved first
            hub_options = loading.upload_options(upload.push_pipeline, hub_options)
        super().save_pretrained(save_directory, safe_serialization, variant, max_shard_size, **kwargs)
        if loading:
            loading.remove_earlier_weights(Path(save_directory), variant, safe_serialization)
        if push_to_hub:
            self.push_to_hub(hub_options.pop("repo_id", Path(save_directory).name), **hub_options)

    def save_config(self, save_directory, **kwargs):
        """Writes `model_index.json`, and the code: the pipeline's beside it, the components' in their folders."""
        super().save_config(save_directory, **kwargs)
        folder = Path(save_directory)
        entries = self._write_code(folder, json.loads((folder / self.config_name).read_text()))
        auto_map = {"auto_map": {"AutoModel": ".".join(entries["unet"])}} if "unet" in entries else {}
        for file, added in ((self.config_name, entries | auto_map), (f"unet/{self.unet.config_name}", auto_map)):
            config = json.loads((folder / file).read_text())
            config.pop("_name_or_path", None)  # it would tell strangers where the folder lay
            (folder / file).write_text(json.dumps(config | added, indent=2, sort_keys=True) + "\n")

    def _write_code(self, folder: Path, index: dict) -> dict[str, list[str]]:
        """Writes the modules of the pipeline and of its components; returns their entries of `model_index.json`."""
        entries = {}
        for name, (module, class_name, _) in COMPONENTS.items():
            if _stem(index[name][0]) == _stem(module):
                entries[name] = [_write_module(index[name][0], folder / name), class_name]
        if _stem(type(self).__module__) == "pipeline_flower_ddim":  # not a class that somebody derived from ours
            entries["_class_name"] = [_write_module(type(self).__module__, folder), type(self).__name__]
        return entries

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Uploads the pipeline with a model card; see [`flower_ddim.hub.upload.push_pipeline`]. Returns the commit's address."""
        upload = _from_package("hub.upload")
        if upload is None:  # diffusers writes a blank card
            return super().push_to_hub(repo_id, **kwargs)
        options = _from_package("pipelines.loading").upload_options(upload.push_pipeline, kwargs)
        return upload.push_pipeline(self, repo_id, **options)


def _from_package(module: str) -> ModuleType | None:
    """A module of the installed package by its name, or `None` where this code runs as a copy in a saved folder, without it.

    No import statement would do: what is imported is written into every copy, and what uploads a pipeline lies above it.
    """
    try:
        return importlib.import_module(f"flower_ddim.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "flower_ddim":  # an extra is missing, say
            raise
        return None


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
