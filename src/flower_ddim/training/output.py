"""The output folder of a training: the record of what trainings have written there, and the lock of the one under way.

Only what is in the record is ever deleted or overwritten: the user may keep files of his own in the same folder.
"""

import json
import logging
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

import filelock

from ..storage.files import write_json
from . import checkpoints
from .config import TrainingConfig


logger = logging.getLogger(__name__)

RECORD = ".training-files.json"
LOCK, LOCK_HOLDER = ".training.lock", ".training.lock.json"

# What a training may write; each is a file, or a folder of which it writes some files.
NAMES = ("training.yaml", "metrics.jsonl", "loss.png", "samples.png", "samples", "best")
PIPELINE_PARTS = ("model_index.json", "pipeline_flower_ddim.py", "unet", "scheduler")


class OutputFolder:
    """The folder of a training, and what trainings have written there, by paths relative to it."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._found = self._signs()  # before anything is read of it
        self.written = self._read_record()
        self._lock = None

    def _read_record(self) -> set[str]:
        if (self.path / RECORD).is_file():
            try:
                return set(json.loads((self.path / RECORD).read_text(encoding="utf-8"))["files"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path / RECORD} is damaged ({error}): name another `--output_dir`.") from error
        return _written_before_there_were_records(self.path)

    def _signs(self) -> dict[str, tuple[int, int]]:
        """What another training in the folder would change: size and time of files that it writes."""
        files = [self.path / name for name in (RECORD, "training.yaml", "metrics.jsonl")]
        files += [path / checkpoints.STATE_FILE for path in checkpoints.list_checkpoints(self.path)]
        stats = {str(file): file.stat() for file in files if file.is_file()}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}

    def prepare(self, overwrite: bool):
        """Makes the folder, locks it, and removes what interrupted runs left; `overwrite` removes an earlier training, too.

        Raises:
            OSError: if the folder cannot be made.
            ValueError: if another training holds it, or has written there since this object was made: what has been read of
                the folder is then out of date.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"`output_dir` cannot be used ({error}): name one that you may write to.") from error
        self.lock()
        if self._signs() != self._found:
            self.unlock()
            raise ValueError(f"Another training has written to {self.path} meanwhile: start this one again.")
        checkpoints.discard_unfinished(self.path)
        if overwrite:
            for old in checkpoints.list_checkpoints(self.path):
                checkpoints.remove_checkpoint(old)
            self._remove_written()
        self._write_record()

    def check(self, config: TrainingConfig, checkpoint: Path | None, last_logged: int):
        """Raises a ValueError where a run would touch what is the user's, or another training's; nothing has been written then.

        Args:
            checkpoint, last_logged: see [`flower_ddim.training.checkpoints.check_output_dir`].
        """
        for pictures in (config.train_data_dir, config.dataset_name):
            self.check_pictures(pictures)
        if config.overwrite_output_dir:
            sources = ("init_from", "teacher", "model_config_name_or_path")
            self.check_keeps(**{name: getattr(config, name) for name in sources})
        else:
            resumes = config.resume_from_checkpoint is not None
            checkpoints.check_output_dir(self.path, resumes, checkpoint, last_logged)
        self.check_free()

    def check_pictures(self, pictures: str | None):
        """Raises a ValueError where the folder is that of the pictures, or lies in it: a run would train on its own samples."""
        if pictures is None or not Path(pictures).is_dir():
            return
        ours, theirs = self.path.resolve(), Path(pictures).resolve()
        if _lies_in(ours, theirs):
            raise ValueError(
                f"`output_dir` {self.path} lies in the folder of the pictures, {pictures}, so that the next run would train on its "
                "samples: name one outside."
            )
        for place in _linked_places(theirs, {theirs}):
            if _lies_in(place, ours) and not _lies_in(place, theirs):
                raise ValueError(
                    f"A link in the folder of the pictures, {pictures}, leads into `output_dir` {self.path}, so that the next run "
                    "would train on its samples: remove the link, or name another folder."
                )
        if any(_lies_in(ours / name, theirs) for name in self.written):
            raise ValueError(
                f"The folder of the pictures, {pictures}, holds what a training has written to `output_dir` {self.path}: name "
                "another for one of them."
            )

    def check_keeps(self, **sources: str | None):
        """Raises a ValueError where something in the folder, which is to be overwritten, is what the training begins from.

        Args:
            sources: folders or files, or ids on the Hub, by the options that name them.
        """
        for option, source in sources.items():
            if source and os.path.exists(source) and _lies_in(Path(source).resolve(), self.path.resolve()):
                raise ValueError(
                    f"`{option}` {source} lies in `output_dir`, which `overwrite_output_dir` empties: name another `--output_dir`."
                )

    def check_free(self):
        """Raises a ValueError where a file lies under one of our names that no training has written, naming it."""
        for name in (*NAMES, *PIPELINE_PARTS, checkpoints.PIPELINE_STATE_FILE):
            path = self.path / name
            found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
            for file in found:
                if file.relative_to(self.path).as_posix() not in self.written:
                    raise ValueError(
                        f"{file} was not written by a training, which would overwrite it: move it, or name another `--output_dir`."
                    )
        checkpoint_folders = checkpoints.folders_named_so(self.path)
        is_trained = (
            self.written or (self.path / RECORD).is_file() or any(map(checkpoints.is_ours, checkpoint_folders))
        )
        for path in checkpoint_folders:
            # Where there is a training, one without a state file may be what is left of a checkpoint; it is only set aside.
            of_others = (path / checkpoints.STATE_FILE).exists() or not is_trained
            if of_others and not checkpoints.is_ours(path):
                raise ValueError(
                    f"{path} was not written by a training, whose checkpoints have such names: move it, or name another "
                    "`--output_dir`."
                )

    def claim(self, *names: str) -> Path:
        """Takes files, named relative to the folder, into the record, before they are written; returns the path of the last.

        Raises:
            ValueError: if one is there that no training has written.
        """
        new = [name for name in names if name not in self.written]
        for name in new:
            if (self.path / name).exists():
                raise ValueError(
                    f"{self.path / name} was not written by this training, which will not overwrite it: move it."
                )
        if new:
            self.written.update(new)
            self._write_record()
        return self.path / names[-1]

    def replace_files(self, source: Path, target: str = ""):
        """Moves all files below `source` to the same places below the folder `target` in this one, and removes `source`."""
        files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
        self.claim(*((Path(target) / file).as_posix() for file in files))
        checkpoints.replace_files(source, self.path / target)

    def _remove_written(self):
        """Removes what trainings have written, and folders that are empty then; whatever else lies there stays."""
        for name in self.written:
            (self.path / name).unlink(missing_ok=True)
        self._forget(self.written)

    def _forget(self, names: Iterable[str]):
        """Takes files that are gone out of the record, and removes their folders where these are empty."""
        for name in sorted(names):
            for folder in (self.path / name).parents:
                if folder == self.path or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()
        self.written -= set(names)
        self._write_record()

    def _write_record(self):
        write_json(self.path / RECORD, {"files": sorted(self.written)})

    def step_of_pipeline(self, folder: str = "") -> int | None:
        """Which step the pipeline in a folder of this one, or in this itself, is of, as far as is known."""
        state = self.path / folder / checkpoints.PIPELINE_STATE_FILE
        return json.loads(state.read_text(encoding="utf-8"))["step"] if state.is_file() else None

    def set_pipelines_aside(self, step: int):
        """Moves the pipeline and `best/` away if they are of a later step than `step`: a run that goes back abandons that branch.

        The log and the options that are beside them from now on would be told of them otherwise.
        """
        state = checkpoints.PIPELINE_STATE_FILE
        for folder, names in (("best", ("best",)), ("", (*PIPELINE_PARTS, "samples.png", state))):
            if (self.step_of_pipeline(folder) or 0) <= step:
                continue
            aside = checkpoints.free_name(self.path / f"abandoned-{folder or 'pipeline'}")
            ours = [file for file in self.written if file.partition("/")[0] in names and (self.path / file).is_file()]
            for file in sorted(
                ours, key=lambda name: name.endswith(state)
            ):  # this says last that it is of a later step
                moved = aside / file.removeprefix(f"{folder}/")
                moved.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.path / file, moved)
            self._forget(ours)

    def lock(self):
        """Keeps other trainings out of the folder until [`unlock`], or until the process ends, however it ends.

        Raises:
            ValueError: if another training holds the folder, with its process.
        """
        lock, holder = filelock.FileLock(self.path / LOCK), self.path / LOCK_HOLDER
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as error:
            who = json.loads(holder.read_text()) if holder.is_file() else {"process": "unknown", "host": "unknown"}
            raise ValueError(
                f"Another training (process {who['process']} on {who['host']}) writes to {self.path}: wait for it, or name another "
                "`--output_dir`."
            ) from error
        except (OSError, NotImplementedError) as error:
            logger.warning(f"{self.path} cannot be locked ({error}): make sure that no other training writes to it.")
            return
        self._lock = lock
        write_json(holder, {"process": os.getpid(), "host": platform.node()})

    def unlock(self):
        if self._lock:
            (self.path / LOCK_HOLDER).unlink(missing_ok=True)
            self._lock.release()  # the file stays: another training may hold it by now
            self._lock = None


def _lies_in(path: Path, folder: Path) -> bool:
    return folder in (path, *path.parents)


def _linked_places(folder: Path, entered: set[Path]) -> Iterator[Path]:
    """Where the links below a folder lead, also those in linked folders; what is hidden is not looked for pictures."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        if place != path:
            yield place
        if path.is_dir() and place not in entered:
            entered.add(place)
            yield from _linked_places(place, entered)


def _written_before_there_were_records(folder: Path) -> set[str]:
    """What a training of an earlier version has written, told by the files that its checkpoints list, or by its log."""
    kept = checkpoints.list_checkpoints(folder)
    log = folder / "metrics.jsonl"
    if not kept and not (log.is_file() and log.read_text(encoding="utf-8").startswith('{"step"')):
        return set()
    names = {"training.yaml", "metrics.jsonl", "loss.png", "samples.png"}
    if kept:
        listed = json.loads((kept[-1] / checkpoints.STATE_FILE).read_text(encoding="utf-8")).get("sha256", {})
        pipeline = {name for name in listed if not name.startswith("state/")}
        names |= pipeline | {f"best/{name}" for name in pipeline}
    names |= {path.relative_to(folder).as_posix() for path in folder.glob("samples/epoch-*.png")}
    return {name for name in names if (folder / name).is_file()}
