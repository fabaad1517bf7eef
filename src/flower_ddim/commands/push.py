"""Uploads a model to the Hub, with its card, or as a Space to play with."""

import sys
import tempfile

import torch

from .. import FlowerDDIMPipeline
from ..entrance import Parser, model_folder
from ..hub.space import write_gradio_space, write_static_space
from ..hub.upload import add_choices, prepare_upload, push_pipeline, upload_folder
from ..storage.hub_cards import choices_on_hub
from ..storage.hub_client import create_repository


SPACES = {"static": write_static_space, "gradio": write_gradio_space}
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}  # of variants, by their usual names


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    dtype = PRECISIONS.get(args.variant, torch.float32)  # that of the files, so that they stay as small
    pipe = FlowerDDIMPipeline.from_pretrained(args.model_dir, variant=args.variant, dtype=dtype)
    if args.dry_run or args.space:
        with tempfile.TemporaryDirectory() as folder:
            _push_from(folder, pipe, args)
    else:
        choice = {"keep_card": args.keep_card, "overwrite_card": args.overwrite_card}
        print(push_pipeline(pipe, args.repo_id, private=args.private or None, **choice, **_model_options(args)))


def _parse(arguments, prog):
    parser = Parser(prog=prog, description=__doc__)
    help = "folder of a pipeline, of which nothing but the pipeline is uploaded, or name of a shipped model"
    parser.add_argument("model_dir", type=model_folder, help=help)
    parser.add_argument("repo_id", help="name of the repository, OWNER/NAME, which is made if it is not there")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry_run", action="store_true", help="check and show what would be uploaded, and stop")
    parser.add_argument(
        "--space",
        nargs="?",
        const="static",
        choices=list(SPACES),
        help="upload a Space instead: the page of `web`, which runs in the visitor's browser and is free, or with `gradio` that of "
        "`app`, which needs a paid account on the Hub",
    )
    parser.add_argument("--variant", help="variant of the weights to load and upload, such as fp16")
    parser.add_argument("--dataset_name", help="data set on the Hub that it was trained on, for the card")
    parser.add_argument("--license", help="licence of the weights, for the card: an identifier such as cc-by-4.0")
    edited = parser.add_mutually_exclusive_group()
    edited.add_argument("--keep_card", action="store_true", help="upload all but the card and its pictures")
    edited.add_argument("--overwrite_card", action="store_true", help="overwrite a card that was edited on the Hub")
    words = sys.argv[1:] if arguments is None else list(arguments)
    # In front of OWNER/NAME, argparse would take that for the kind of the Space.
    pairs = zip(words, [*words[1:], None], strict=True)
    words = ["--space=static" if word == "--space" and value not in SPACES else word for word, value in pairs]
    args = parser.parse_args(words)
    if args.space and (args.license or args.dataset_name):
        parser.error(
            "--license and --dataset_name are for the card of a model, which a Space has not: leave them out."
        )
    return args


def _model_options(args) -> dict:
    """What a model is uploaded with, and its card tells."""
    card = {"dataset": args.dataset_name, "license": args.license, "records": args.model_dir}
    return {"variant": args.variant, **card}


def _push_from(folder, pipe, args):
    """Writes what is to be uploaded into an empty folder and lists it; a Space is then uploaded from there."""
    if args.space:
        if args.space == "gradio":
            print(
                "A Space of Gradio runs on a machine of the Hub, for which its owner needs a paid account; static ones are free."
            )
        files = SPACES[args.space](pipe, folder, title=args.repo_id.rpartition("/")[2])
    else:
        files = prepare_upload(pipe, folder, args.repo_id, keep_card=args.keep_card, **_model_options(args))
    for file in files:
        name = file.relative_to(folder)
        if not (args.keep_card and str(name) == "README.md"):
            print(f"{file.stat().st_size:>12,} {name}")
    kind = "space" if args.space else "model"
    if args.dry_run:
        print(f"Nothing was uploaded to the {'private ' if args.private else ''}{kind} {args.repo_id}.")
        return
    repo_id = create_repository(args.repo_id, private=args.private or None, space_sdk=args.space)
    if not args.keep_card:
        add_choices(folder, choices_on_hub(repo_id, repo_type=kind))
    choice = {"keep_card": args.keep_card, "overwrite_card": args.overwrite_card}
    print(upload_folder(folder, repo_id, token=None, repo_type=kind, commit_message="Upload space", **choice))
