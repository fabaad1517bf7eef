"""The console command `flower-ddim`: finds the subcommand, and imports no module but that one's."""

import importlib
import sys

from ..entrance import nearest, run


PROG = "flower-ddim"

# Every subcommand is a module beside this one, with a `main(arguments, prog)`.
SUBCOMMANDS = {
    "train": "trains a model on your pictures, by a recipe",
    "generate": "generates images: a grid, or many files",
    "figures": "draws the figures of the chapter",
    "interpolate": "animates the way through several flowers and back",
    "evaluate": "measures a model: its scores, its steps, what it remembers",
    "push": "uploads a model to the Hub, with its card, or as a Space",
    "card": "renders the card of a model",
    "convert": "turns weights of the book in Keras into a pipeline, or back",
    "export": "writes a model as ONNX, for runtimes without PyTorch",
    "web": "writes a page that generates in the visitor's browser",
    "app": "serves a page to play with a model in the browser",
    "benchmark": "measures speed and memory",
    "info": "shows what the package runs on, and generates a picture",
}


def main():
    """Runs the subcommand that the command line names, or lists them all."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_overview())
    elif name in SUBCOMMANDS:
        run_subcommand(name, rest, f"{PROG} {name}")
    else:
        near = nearest(name, SUBCOMMANDS)
        advice = f"did you mean {near[0]}?" if near else f"`{PROG} --help` lists those that there are."
        print(f"{PROG}: there is no subcommand {name}: {advice}", file=sys.stderr)
        sys.exit(2)


def run_subcommand(name: str, arguments: list[str], prog: str):
    """Runs one subcommand; a user's mistake ends in one sentence.

    Args:
        prog: how it is called, for its help and its messages.
    """
    run(lambda: importlib.import_module(f".{name}", __package__).main(arguments, prog), prog)


def _overview() -> str:
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in SUBCOMMANDS.items()]
    usage = f"usage: {PROG} SUBCOMMAND [--option value ...]"
    return "\n".join([usage, "", *lines, "", f"`{PROG} SUBCOMMAND --help` lists the options of one."])
