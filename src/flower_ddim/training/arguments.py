"""How the options of the training are read from a command line and from recipes."""

import dataclasses
import json
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import get_type_hints

import yaml
from transformers import HfArgumentParser

from ..entrance import Parser, model_folder, nearest
from .config import TrainingConfig


#: Folder of the recipes that come with the package.
RECIPES = Path(__file__).parents[1] / "recipes"

_FILE_ENDINGS = (".yaml", ".yml", ".json")


class _TrainingParser(Parser, HfArgumentParser):
    """One option for every field of `TrainingConfig`; knows what became of those of diffusers' train_unconditional.py."""

    remedies = {
        "ddpm_num_inference_steps": "samples take the steps that the model is for, so leave it out.",
        "ddpm_num_steps": "diffusion time is continuous here and not cut into steps, so leave it out.",
        "enable_xformers_memory_efficient_attention": "PyTorch chooses the fastest attention itself, so leave it out.",
        "local_rank": "accelerate and torchrun tell every process its rank, so leave it out.",
        "preserve_input_precision": "pictures are always read with 8 bits a channel, so leave it out.",
    }


def main(arguments: list[str] | None = None, prog: str | None = None):
    """Trains as the command line says and prints where the pipeline is."""
    config = parse_config(sys.argv[1:] if arguments is None else arguments, prog)
    from . import train  # only now: PyTorch takes seconds, and a mistake in the options is told at once

    folder = train(config)
    if folder:
        print(f"The trained pipeline is in {folder}.")


def parse_config(arguments: list[str], prog: str | None = None) -> TrainingConfig:
    """Reads `[recipe] [--option value …]`; the recipe's values stand in front of the command line, which overrides them.

    Both go through the same parser, so types are checked in one place. A recipe is one that comes with the package, by its name,
    or a YAML or JSON file; see [`find_recipe`].

    Args:
        prog: how the program is called in its messages; by default the script's name.

    Raises:
        SystemExit: for an unknown option or a value of the wrong type, naming it.
        ValueError: for values out of range or options that contradict each other.
        FileNotFoundError: if there is no such recipe.
    """
    parser = _TrainingParser(
        _options_for_argparse(),
        prog=prog,
        usage="%(prog)s [recipe] [--option value ...]",
        epilog="Several processes: `accelerate launch` on GPUs; on CPUs, where that starts only one, `ACCELERATE_USE_CPU=true "
        "torchrun --standalone --nproc_per_node 2 -m flower_ddim.training ...`. The first line of a run says how many there are.",
        description=f"Trains a diffusion model on pictures. A recipe is {', '.join(recipe_names())}, or a YAML or JSON file.",
    )
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words = _recipe_words(find_recipe(words[0])) + words[1:]
    given, surplus = parser.parse_args_into_dataclasses(words, return_remaining_strings=True, look_for_args_file=False)
    if surplus:
        parser.error(
            f"{surplus[0]}: this belongs to no option; write the recipe first, and every value after its option."
        )
    config = TrainingConfig(**vars(given))
    for name in ("init_from", "teacher"):
        try:
            if getattr(config, name):
                setattr(config, name, model_folder(getattr(config, name)))
        except ArgumentTypeError as error:
            parser.error(f"argument --{name}: {error}")
    return config


def _options_for_argparse() -> type:
    """A dataclass of the options of `TrainingConfig` with what argparse is to know of them: it refuses other metadata."""
    types = get_type_hints(TrainingConfig)
    options = []
    for spec in dataclasses.fields(TrainingConfig):
        known = {name: spec.metadata[name] for name in ("help", "choices") if spec.metadata[name]}
        options.append((spec.name, types[spec.name], dataclasses.field(default=spec.default, metadata=known)))
    return dataclasses.make_dataclass("Options", options)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(word: str) -> Path:
    """The file of a recipe: a word without a folder and without the ending of a file is the name of one of the package's.

    Raises:
        FileNotFoundError: if there is none, with those that there are.
    """
    path, names = Path(word), recipe_names()
    if path.is_file() and (path.name != word or path.suffix in _FILE_ENDINGS):
        return path
    # The recipes lay in that folder of the repository once, and documents and habits still name it.
    name = path.stem if path == Path("recipes", f"{path.stem}.yaml") else word
    if name in names:
        return RECIPES / f"{name}.yaml"
    near = nearest(path.stem, names)
    listed = ", ".join([*near, *(name for name in names if name not in near)])
    advice = f": did you mean {near[0]}?" if near else ", and others are YAML or JSON files."
    raise FileNotFoundError(f"There is no recipe {word}; {listed} come with the package{advice}")


def _recipe_words(path: Path) -> list[str]:
    """The command line that says the same as a YAML or JSON file."""
    text = path.read_text(encoding="utf-8")
    try:
        recipe = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        kind, reason = "JSON" if path.suffix == ".json" else "YAML", " ".join(str(error).split())
        raise ValueError(
            f"The recipe {path} is not valid {kind} ({reason}): correct it, with one `option: value` a line."
        ) from error
    if not isinstance(recipe, dict):
        raise ValueError(
            f"The recipe {path} must hold lines of the form `option: value`, or a JSON object of options."
        )
    words = []
    for name, value in recipe.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
