"""Renders the card of a model folder, as the Hub shows it."""

from pathlib import Path

from .. import PRETRAINED
from ..entrance import Parser, model_folder
from ..hub.model_card import IMAGES, ModelRecords, render_model_card
from ..storage.files import write_text


def main(arguments: list[str] | None = None, prog: str | None = None):
    parser = Parser(prog=prog, description=__doc__)
    help = "folder of a pipeline and of its records, or name of a shipped model"
    parser.add_argument("model_dir", nargs="?", type=model_folder, default=PRETRAINED, help=help)
    parser.add_argument("--output", default="model_card.md", help="file of the card")
    parser.add_argument(
        "--repo_id", help="where it is on the Hub; without, it is the model that comes with the package"
    )
    parser.add_argument(
        "--dataset_name", help="data set on the Hub that it was trained on, if its records do not say it"
    )
    parser.add_argument("--license", help="licence of the weights, if its records do not say it")
    images = ["docs/flowers.webp", "docs/figures/steps.webp", "docs/figures/interpolation.webp"]
    parser.add_argument("--images", nargs=3, default=images, metavar=tuple(IMAGES), help="pictures that it shows")
    args = parser.parse_args(arguments)
    card = render_model_card(
        ModelRecords.read(args.model_dir, args.model_dir),
        name=Path(args.model_dir).resolve().name,
        repo_id=args.repo_id,
        dataset=args.dataset_name,
        license=args.license,
        images=dict(zip(IMAGES, args.images, strict=True)),
    )
    write_text(args.output, f"{card}\n")
    print(args.output)
