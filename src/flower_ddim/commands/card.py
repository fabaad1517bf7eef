"""Renders the card of a model folder, as the Hub shows it."""

from pathlib import Path

from .. import PRETRAINED, FlowerDDIMPipeline
from ..entrance import Parser, model_folder
from ..hub.card_images import IMAGES, image_names, write_card_images
from ..hub.model_card import ModelRecords, render_model_card
from ..storage.files import check_output, write_text
from ..storage.hub_cards import was_rendered


SHIPPED_IMAGES = ("docs/flowers.webp", "docs/figures/steps.webp", "docs/figures/interpolation.webp")


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    check_output(args.output)
    folder, output = Path(args.model_dir).resolve(), Path(args.output)
    default = Path(PRETRAINED).resolve()
    shipped = folder.parent == default.parent and args.repo_id is None
    has_images = shipped and folder == default  # those of the documents
    prefix = f"{output.stem}-"
    if not (args.no_images or args.images or has_images):
        _check_images(output, image_names(prefix).values())
    pipe = FlowerDDIMPipeline.from_pretrained(args.model_dir)
    if args.no_images:
        images = {}
    elif args.images or has_images:
        images = dict(zip(IMAGES, args.images or SHIPPED_IMAGES, strict=True))
    else:
        images = write_card_images(pipe, output.parent, prefix)
    card = render_model_card(
        ModelRecords.read(pipe, folder),
        name=folder.name,
        repo_id=args.repo_id,
        shipped=shipped,
        dataset=args.dataset_name,
        license=args.license,
        images=images,
    )
    write_text(output, card)
    print(output)


def _check_images(output: Path, names):
    """Raises an OSError if a picture of the card would overwrite another file than that of an earlier card of ours."""
    earlier = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    for name in names:
        check_output(output.parent / name)
        if (output.parent / name).exists() and not (was_rendered(earlier) and f"({name})" in earlier):
            raise FileExistsError(
                f"{output.parent / name} is in the way of a picture of the card: move it, name another `--output`, or give "
                "`--no_images`."
            )


def _parse(arguments, prog):
    parser = Parser(prog=prog, description=__doc__)
    help = "folder of a pipeline and of its records, or name of a shipped model"
    parser.add_argument("model_dir", nargs="?", type=model_folder, default=PRETRAINED, help=help)
    parser.add_argument("--output", default="model_card.md", help="file of the card")
    parser.add_argument("--repo_id", help="where it is on the Hub, if it is")
    parser.add_argument(
        "--dataset_name", help="data set on the Hub that it was trained on, if its records do not say it"
    )
    parser.add_argument("--license", help="licence of the weights, if its records do not say it")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--images",
        nargs=3,
        metavar=tuple(IMAGES),
        help="pictures that it shows; otherwise the model generates them beside the card",
    )
    shown.add_argument("--no_images", action="store_true", help="show no pictures")
    return parser.parse_args(arguments)
