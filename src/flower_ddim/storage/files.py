"""Files that are there whole or not at all, however a run ends."""

import json
import os
from pathlib import Path


def write_bytes(path: str | Path, content: bytes):
    """Writes a file aside and then puts it in its place; makes its folder where there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


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
