"""What loading a pipeline with this package adds to diffusers: checks of the folder, and errors of one sentence."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..storage.hub_client import explain_hub_failure, first_line, hub_failure
from ..storage.safe_loading import PICKLE_REMEDY, pickle_hint, read_json_object


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
        if isinstance(error, OSError) and PICKLE_REMEDY not in str(error) and (hint := pickle_hint(path)):
            raise OSError(f"{error}{hint}") from error
        if isinstance(error, (OSError, ValueError, ImportError, NotImplementedError)):
            raise
        raise ValueError(
            f"The pipeline in {path} cannot be loaded ({type(error).__name__}: {first_line(error)}): if its files are damaged "
            "or of another version, download or save it again."
        ) from error


def check_configurations(folder: str | Path, components: Iterable[str]):
    """Raises an OSError where a component's configuration is not JSON: diffusers would go on and ask the Hub for it."""
    for name in components:
        for file in Path(folder).glob(f"{name}/*config.json"):
            try:
                read_json_object(file)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise OSError(f"{file} is not a valid JSON file ({error}): download or save it again.") from error
