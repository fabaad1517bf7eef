"""Renders the card of a model folder: `python scripts/model_card.py MODEL_DIR --output model_card.md`."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from flower_ddim import PRETRAINED
from flower_ddim.commands.entrance import run
from flower_ddim.hub.model_card import IMAGES, Sources, render_model_card
from flower_ddim.storage.files import write_text


def main():
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("model_dir", nargs="?", default=PRETRAINED, help="folder of a pipeline and of its records")
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
    args = parser.parse_args()
    card = render_model_card(
        Sources.read(args.model_dir, args.model_dir),
        name=Path(args.model_dir).resolve().name,
        repo_id=args.repo_id,
        dataset=args.dataset_name,
        license=args.license,
        images=dict(zip(IMAGES, args.images, strict=True)),
    )
    write_text(args.output, f"{card}\n")
    print(args.output)


if __name__ == "__main__":
    run(main)
