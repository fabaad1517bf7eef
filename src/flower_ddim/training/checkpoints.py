"""Checkpoints of a training on disk: complete or absent, never half-written, and checked when they are read."""

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

from accelerate import Accelerator
from diffusers import ConfigMixin


PREFIX = "checkpoint-"
STATE_FILE = "trainer_state.json"
PIPELINE_STATE_FILE = (
    "training_state.json"  # beside a pipeline: its weights' checksum, their step, the images seen by then
)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of ours, oldest first."""
    return sorted((path for path in folders_named_so(output_dir) if is_ours(path)), key=step_of)


def folders_named_so(output_dir: Path) -> list[Path]:
    """Whatever has the name of a checkpoint, whoever wrote it."""
    return [path for path in Path(output_dir).glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]


def is_ours(checkpoint: Path) -> bool:
    """Whether a folder is a complete checkpoint of ours, be it damaged: other programs write state files of that name, too."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except OSError:
        return False
    except ValueError:
        return True
    return isinstance(state, dict) and "sha256" in state


def step_of(checkpoint: Path) -> int:
    """The step that the name of a checkpoint says."""
    return int(checkpoint.name.removeprefix(PREFIX))


def find_checkpoint(output_dir: Path, wanted: str | None) -> Path | None:
    """The checkpoint to resume from: a folder, also by its name in `output_dir`, or `"latest"`, the newest there, if any.

    Raises:
        FileNotFoundError: if `wanted` names no complete checkpoint.
    """
    if wanted is None:
        return None
    if wanted == "latest":
        checkpoints = list_checkpoints(output_dir)
        return checkpoints[-1] if checkpoints else None
    for folder in (Path(wanted), Path(output_dir) / wanted):
        if is_ours(folder):
            return folder
    raise FileNotFoundError(f"{wanted} is no complete checkpoint: name a folder {PREFIX}N, or 'latest'.")


def check_output_dir(output_dir: Path, resumes: bool, checkpoint: Path | None, last_logged: int):
    """Refuses to mix two trainings in one folder, and to overwrite a model.

    Args:
        resumes: whether an earlier training is to go on, if there is one.
        checkpoint: that it goes on from, if there is one.
        last_logged: last step in the log of the earlier training, or 0.

    Raises:
        ValueError: if the folder holds a training or a model that would be overwritten, with the ways out.
    """
    has_model = (output_dir / "model_index.json").exists()
    if not (has_model or last_logged or list_checkpoints(output_dir)):
        return
    if not resumes:
        raise ValueError(
            f"{output_dir} holds an earlier training or a model: go on with `--resume_from_checkpoint latest`, start anew with "
            "`--overwrite_output_dir`, or name another `--output_dir`."
        )
    if checkpoint and checkpoint.parent.resolve() != output_dir.resolve():
        raise ValueError(f"{output_dir} holds another training than {checkpoint}: name an empty `--output_dir`.")
    if not checkpoint and has_model:
        raise ValueError(
            f"{output_dir} holds a model without checkpoints: go on from its weights with `--init_from` and another "
            "`--output_dir`, or start anew with `--overwrite_output_dir`."
        )


def differences(checkpoint: Path, components: dict[str, ConfigMixin]) -> list[str]:
    """What the configurations of the pipeline in a checkpoint have that those of `components`, by name, have not."""
    found = []
    for part, component in components.items():
        # The checkpoint may be older than an argument, which then had the effect that its default has.
        arguments = inspect.signature(type(component).__init__).parameters.values()
        defaults = {
            argument.name: argument.default for argument in arguments if argument.default is not argument.empty
        }
        saved = json.loads(json.dumps(defaults)) | json.loads((checkpoint / part / component.config_name).read_text())
        own = json.loads(component.to_json_string())
        # Written on saving, or, as the number of steps of a student, follows from the step of the checkpoint.
        derived = ("trained_betas", "auto_map", "default_num_inference_steps")
        names = sorted(n for n in saved.keys() | own.keys() if not n.startswith("_") and n not in derived)
        found += [f"{n} {saved.get(n)} there, {own.get(n)} here" for n in names if saved.get(n) != own.get(n)]
    return found


@contextmanager
def writing_checkpoint(
    output_dir: Path, step: int, state: dict, limit: int, accelerator: Accelerator
) -> Iterator[Path]:
    """Gives every process the folder to write its part of a checkpoint into; at the end the folder becomes `checkpoint-N`.

    Args:
        state: what goes into the state file, beside the checksums.
        limit: how many checkpoints are kept, see [`rotate_checkpoints`].

    Raises:
        OSError: if anything fails, with the last good checkpoint; nothing of this one is left then.
    """
    unfinished = unfinished_folder(output_dir, step)
    try:
        yield unfinished
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            finish_checkpoint(output_dir, step, state)
            rotate_checkpoints(output_dir, limit)
    except Exception as error:  # a full disk is an OSError, a RuntimeError or a SafetensorError, whoever meets it
        if accelerator.is_main_process:
            discard_unfinished(output_dir)
        kept = list_checkpoints(output_dir)
        good = f"the last good one is {kept[-1]}" if kept else "there is none yet"
        raise OSError(
            f"The checkpoint of step {step} could not be written ({error}); {good}: free some space and resume."
        ) from error
    accelerator.wait_for_everyone()


def unfinished_folder(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it gets its name."""
    return Path(output_dir) / f".{PREFIX}{step}"


def finish_checkpoint(output_dir: Path, step: int, state: dict) -> Path:
    """Turns the folder that [`unfinished_folder`] names into `checkpoint-N`: adds `state` and checksums, syncs, renames.

    Whoever finds a folder of that name can rely on it, also after a power cut.
    """
    unfinished = unfinished_folder(output_dir, step)
    files = sorted(path for path in unfinished.rglob("*") if path.is_file())
    checksums = {path.relative_to(unfinished).as_posix(): _checksum(path) for path in files}
    (unfinished / STATE_FILE).write_text(json.dumps(state | {"step": step, "sha256": checksums}, indent=2))
    for path in [*unfinished.rglob("*"), unfinished]:
        _sync(path)
    final = Path(output_dir) / f"{PREFIX}{step}"
    if (
        final.exists()
    ):  # without its state file, or the run would have resumed from there; perhaps it is the user's own
        _set_aside(final)
    os.replace(unfinished, final)
    _sync(final.parent)
    return final


def replace_files(source: Path, target: Path):
    """Moves all files below `source` to the same places below `target`, each in one go, and removes `source`."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, destination)
    shutil.rmtree(source)


def discard_unfinished(output_dir: Path):
    """Removes what interrupted runs left behind: checkpoints that they were writing, or removing."""
    for path in Path(output_dir).glob(f".{PREFIX}*"):
        if path.name.removeprefix(f".{PREFIX}").isdigit():  # others are the user's
            shutil.rmtree(path, ignore_errors=True)


def rotate_checkpoints(output_dir: Path, limit: int):
    """Keeps the newest `limit` complete checkpoints and removes the older ones; 0 keeps all."""
    if limit:
        for old in list_checkpoints(output_dir)[:-limit]:
            remove_checkpoint(old)


def remove_checkpoint(checkpoint: Path):
    """Removes a checkpoint. The user's own files in it stay, in a folder that no longer counts as a checkpoint.

    A damaged checkpoint is set aside as a whole. What an interruption leaves counts as none, or [`discard_unfinished`] removes it.
    """
    try:
        listed = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["sha256"]
    except ValueError:  # then nobody knows which files are ours
        return _set_aside(checkpoint)
    ours = {checkpoint / name for name in (*listed, STATE_FILE)}
    inside = sorted(checkpoint.rglob("*"), reverse=True)  # what is in a folder comes before it
    if ours.issuperset(path for path in inside if not _is_folder(path)):
        leaving = unfinished_folder(checkpoint.parent, step_of(checkpoint))
        os.replace(checkpoint, leaving)
        return shutil.rmtree(leaving)
    (checkpoint / STATE_FILE).unlink()  # from here on it is no checkpoint
    for path in inside:
        if path in ours:
            path.unlink(missing_ok=True)
        elif _is_folder(path) and not any(path.iterdir()):
            path.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def set_later_checkpoints_aside(checkpoint: Path):
    """Renames the newer checkpoints beside this one: a run that resumes from here will make these steps again."""
    for path in list_checkpoints(checkpoint.parent):
        if step_of(path) > step_of(checkpoint):
            _set_aside(path)


def _set_aside(path: Path):
    os.replace(path, free_name(path.with_name(f"abandoned-{path.name}")))


def free_name(path: Path) -> Path:
    """This path, or with a number after it the first one where nothing lies: somebody may have kept something there."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(free for free in chain([path], numbered) if not os.path.lexists(free))


def read_checkpoint(checkpoint: Path, load: Callable[[dict], None]):
    """Checks a checkpoint against its checksums, then calls `load` with its state.

    Raises:
        ValueError: if it is damaged, naming the file and what to resume from instead.
    """
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text())
        for name, checksum in state["sha256"].items():
            if _checksum(checkpoint / name) != checksum:
                raise ValueError(f"{name} has changed since it was written")
    except (OSError, ValueError, KeyError) as error:
        others = [path.name for path in list_checkpoints(checkpoint.parent) if path != checkpoint]
        remedy = f"resume from {others[-1]} beside it" if others else "there is no other one beside it"
        raise ValueError(f"The checkpoint {checkpoint} is damaged ({error}): {remedy}.") from error
    load(state)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path):
    if os.name != "posix" and path.is_dir():
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
