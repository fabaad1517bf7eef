"""What all entrances share: one way to read options and names, and one sentence for a user's mistake."""

import difflib
import importlib
import logging
import os
import re
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable
from pathlib import Path

from . import pretrained
from .extras import EXTRAS, install_command
from .memory import keep_freed_memory


# What an option is called elsewhere -> what it may be called here, of which a parser suggests the first that it knows.
SYNONYMS = {
    "accumulation_steps": ["gradient_accumulation_steps"],
    "batch": ["train_batch_size", "batch_size"],
    "batch_size": ["train_batch_size"],
    "beta_schedule": ["schedule"],
    "bf16": ["mixed_precision", "dtype"],
    "checkpoint": ["model", "init_from"],
    "data": ["train_data_dir"],
    "data_dir": ["train_data_dir", "data"],
    "dataset": ["dataset_name", "data"],
    "ddpm_beta_schedule": ["schedule"],
    "ema_decay": ["ema_max_decay"],
    "epochs": ["num_epochs"],
    "fp16": ["mixed_precision", "dtype"],
    "image_size": ["resolution", "sample_size", "size"],
    "lr": ["learning_rate"],
    "max_steps": ["max_train_steps"],
    "model": ["init_from"],
    "n": ["num_images"],
    "num_samples": ["num_images"],
    "num_steps": ["max_train_steps", "num_inference_steps"],
    "num_train_epochs": ["num_epochs"],
    "num_workers": ["dataloader_num_workers"],
    "o": ["output", "output_dir"],
    "out": ["output", "output_dir"],
    "output": ["output_dir"],
    "precision": ["mixed_precision", "dtype"],
    "pretrained_model_name_or_path": ["model", "init_from"],
    "resume": ["resume_from_checkpoint"],
    "sampler": ["solver"],
    "samples": ["num_images"],
    "scheduler": ["solver", "lr_scheduler"],
    "size": ["resolution", "sample_size"],
    "steps": ["max_train_steps", "num_inference_steps"],
    "warmup_steps": ["lr_warmup_steps"],
    "weight_decay": ["adam_weight_decay"],
    "workers": ["dataloader_num_workers"],
}


class Parser(ArgumentParser):
    """Reads options by their full names, and answers any other with the nearest: one sentence, exit code 2."""

    #: Options of other programs that have no counterpart here -> what to do instead.
    remedies: dict[str, str] = {}

    def __init__(self, *args, **options):
        options = {"formatter_class": ArgumentDefaultsHelpFormatter, "allow_abbrev": False} | options
        super().__init__(*args, **options)

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        # First of all: argparse would tell of a required option that is missing, and not of the misspelt one.
        unknown = self._first_unknown(words)
        if unknown is not None:
            self.error(self._advice(unknown))
        return super().parse_known_args(words, namespace)

    def error(self, message: str):
        """Ends the program with one sentence; argparse would put the whole usage in front of it."""
        self.exit(2, f"{self.prog}: {message}\n")

    def _first_unknown(self, words: list[str]) -> str | None:
        for word in words:
            # Behind `--` there are no options, and behind a verb there are those of its own parser.
            if word == "--" or (self._subparsers and not word.startswith("-")):
                return None
            name = word.partition("=")[0]
            if re.fullmatch(r"--?[^\W\d][\w-]*", name) and name not in self._option_string_actions:
                return name
        return None

    def _advice(self, option: str) -> str:
        name = option.lstrip("-").replace("-", "_")
        if name in self.remedies:
            return f"{option}: {self.remedies[name]}"
        # The training knows every option with hyphens, too, and would suggest both.
        known = [option[2:] for option in self._option_string_actions if re.fullmatch(r"--\w+", option)]
        near = [other for other in SYNONYMS.get(name, ()) if other in known] or nearest(name, known)
        return f"{option}: did you mean --{near[0]}?" if near else f"{option}: there is no such option, see --help."


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that `name` is the beginning of, or else may be a slip of, the most similar first."""
    names = list(names)
    begun = [other for other in names if name and other.startswith(name)]
    return difflib.get_close_matches(name, begun, cutoff=0) or difflib.get_close_matches(name, names)


def model_folder(name: str) -> str:
    """The folder of a model: an existing one, or that of a shipped model, by its name.

    What has a slash in it stays as it is: an id on the Hub, or a path, of which loading tells more.

    Raises:
        ArgumentTypeError: for a name that is neither, with those of the shipped models; argparse shows it as it is.
    """
    if Path(name).is_dir() or "/" in name or os.sep in name:
        return name
    try:
        return pretrained(name)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def run(main: Callable[[], None] | str, prog: str | None = None):
    """Runs a main function: our messages are shown, and a user's mistake ends in one sentence and exit code 1.

    Whatever else fails shows its traceback; FLOWER_DDIM_TRACEBACK=1 in the environment shows it for mistakes, too.

    Args:
        main: the function, or the name of a module with a function `main`, which is imported only here: that takes seconds, and
            Ctrl-C is to end them without a traceback, too.
        prog: how the program is called; by default the script's path.
    """
    keep_freed_memory()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("flower_ddim").setLevel(logging.INFO)
    prog = prog or sys.argv[0]
    try:
        if isinstance(main, str):
            main = importlib.import_module(main).main
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # of Ctrl-C, which a program answers by ending
    except (ModuleNotFoundError, ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("FLOWER_DDIM_TRACEBACK") == "1":
            raise
        if not isinstance(error, ModuleNotFoundError):
            sys.exit(f"{prog}: {error}")
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        sys.exit(f"{prog}: this needs {package}: {install_command(EXTRAS[package])}")
