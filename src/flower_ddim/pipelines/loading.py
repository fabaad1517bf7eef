"""What loading a pipeline with this package adds to diffusers: checks of the folder, and errors of one sentence."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..storage.hub_client import explain_hub_failure, first_line, hub_failure
from ..storage.json_objects import read_json_object
from ..storage.safe_loading import PICKLE_REMEDY


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
