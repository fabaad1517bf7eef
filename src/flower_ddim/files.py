"""Files that are there whole or not at all, however a run ends."""

import json
import os
from pathlib import Path


def write_text(path: str | Path, text: str):
    """Writes a file aside and then puts it in its place; makes its folder where there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def write_json(path: str | Path, values: dict):
    """Writes an indented JSON object, as [`write_text`] does."""
    write_text(path, json.dumps(values, indent=2) + "\n")
