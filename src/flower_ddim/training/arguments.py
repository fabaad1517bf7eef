"""How the options of the training are read from a command line and from recipes."""

import json
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from .config import TrainingConfig


def parse_config(arguments: list[str]) -> TrainingConfig:
    """Reads `[recipe.yaml] [--option value …]`; the recipe's values stand in front of the command line, which overrides them.

    Both go through the same parser, so types are checked in one place.

    Raises:
        SystemExit: for an unknown option or a value of the wrong type, naming it.
        ValueError: for values out of range or options that contradict each other.
        FileNotFoundError: if there is no such recipe.
    """
    parser = HfArgumentParser(
        TrainingConfig,
        prog="train.py",
        usage="train.py [recipe.yaml] [--option value ...]",
        description="Trains a diffusion model on pictures.",
        allow_abbrev=False,
    )
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words = _recipe_words(Path(words[0])) + words[1:]
    (config,) = parser.parse_args_into_dataclasses(words)
    return config


def _recipe_words(path: Path) -> list[str]:
    """The command line that says the same as a YAML or JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}: name a YAML or JSON file, or begin options with --.")
    try:
        recipe = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"The recipe {path} is not valid {path.suffix.lstrip('.').upper()}: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} must hold lines of the form `option: value`.")
    words = []
    for name, value in recipe.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
