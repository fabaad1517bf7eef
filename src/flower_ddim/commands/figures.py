"""Draws the figures of the chapter into a folder: all of them, or those that are named."""

from ..entrance import Parser
from .options import add_format_option, add_model_option


def main(arguments: list[str] | None = None, prog: str | None = None):
    from ..figures.gallery import Gallery  # needs matplotlib

    parser = Parser(prog=prog, description=__doc__)
    add_model_option(parser)
    parser.add_argument(
        "--data", help="folder of Parquet files or pictures; without it, figures of real ones are left out"
    )
    parser.add_argument("--split", default="train", help="split of the data to show")
    parser.add_argument("--output_dir", default="figures", help="folder of the figures")
    parser.add_argument("--only", nargs="+", choices=Gallery.NAMES, metavar="NAME", help=", ".join(Gallery.NAMES))
    parser.add_argument("--metrics", nargs="+", default=[], help="metrics.jsonl of one or more runs, for loss_curve")
    parser.add_argument("--images_per_epoch", type=int, help="images of an epoch: draws the loss over epochs")
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        default=[],
        help="pipeline folders, or sample grids of a training, for samples_by_epoch",
    )
    parser.add_argument("--num_inversions", type=int, default=16, help="pictures that the inversion is measured on")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the next one has the next seed")
    add_format_option(parser)
    args = vars(parser.parse_args(arguments))
    names = args.pop("only")
    Gallery(**args).draw(names)
