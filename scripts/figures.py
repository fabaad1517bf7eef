"""Draws the figures of the chapter: `python scripts/figures.py --data FOLDER --output_dir figures`."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

from flower_ddim import PRETRAINED
from flower_ddim.commands.entrance import run


def main():
    from flower_ddim.figures.gallery import Gallery

    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=PRETRAINED, help="model folder, or id on the Hub")
    parser.add_argument(
        "--data", help="folder of Parquet files or pictures; without it, figures of real ones are left out"
    )
    parser.add_argument("--split", default="train", help="split of the data to show")
    parser.add_argument("--output_dir", default="figures", help="folder of the figures")
    parser.add_argument("--only", nargs="+", choices=Gallery.NAMES, metavar="NAME", help=", ".join(Gallery.NAMES))
    parser.add_argument("--metrics", nargs="+", default=[], help="metrics.jsonl of one or more runs, for loss_curve")
    parser.add_argument("--images_per_epoch", type=int, help="images of an epoch: draws the loss over epochs")
    parser.add_argument("--checkpoints", nargs="+", default=[], help="pipeline folders, for samples_by_epoch")
    parser.add_argument("--num_inversions", type=int, default=16, help="pictures that the inversion is measured on")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the next one has the next seed")
    parser.add_argument("--format", dest="image_format", default="png", help="png, webp, svg or pdf")
    args = vars(parser.parse_args())
    names = args.pop("only")
    Gallery(**args).draw(names)


if __name__ == "__main__":
    run(main)
