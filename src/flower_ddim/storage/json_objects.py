"""Configuration files."""

import json
from pathlib import Path


def read_json_object(file) -> dict:
    """Reads a configuration file: diffusers takes other JSON than an object for the name of a model, and asks the Hub for it."""
    value = json.loads(Path(file).read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(
            f"{file} holds a {type(value).__name__}, but must hold a JSON object: download or save it again."
        )
    return value
