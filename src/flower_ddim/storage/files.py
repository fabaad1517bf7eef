"""Files that are there whole or not at all, however a run ends."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output(path: str | Path):
    """Makes sure that a file can be written, which may be in a folder yet to be made. A caller asks before the work for it.

    Raises:
        OSError: if it cannot.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise OSError(f"{path} cannot be written: it is a folder, so name a file in it.")
    folder = next(parent for parent in path.parents if os.path.exists(parent))
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise OSError(f"{path} cannot be written: {folder} is no folder that you may write to, so name another one.")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives the path of a new file to write, of the same name, which takes the place of `path` at the end.

    It makes the folder where there is none. It lies in a folder of its own beside `path`, so that several processes can write the
    same file: the last one wins. Whatever fails, nothing of it is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        unfinished = Path(folder, path.name)
        yield unfinished
        os.replace(unfinished, path)


def write_bytes(path: str | Path, content: bytes):
    """Writes a file aside and then puts it in its place; makes its folder where there is none."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: str | Path, text: str):
    """Writes a text in UTF-8, as [`write_bytes`] does."""
    write_bytes(path, text.encode())


def read_metrics(path: str | Path) -> list[dict]:
    """The lines of a `metrics.jsonl`, but for half a line that an interrupted run has left at the end.

    Raises:
        ValueError: if another line is damaged, naming it.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    if lines and not lines[-1].endswith("}"):
        lines.pop()
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {path} is damaged ({error}): remove it.") from error
    return values


def write_json(path: str | Path, values: dict):
    """Writes an indented JSON object, as [`write_text`] does."""
    write_text(path, json.dumps(values, indent=2) + "\n")
