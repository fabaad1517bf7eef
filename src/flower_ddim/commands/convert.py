"""Turns weights of the Keras reference into a pipeline folder."""

from ..conversion.from_keras import convert_keras
from ..entrance import Parser


def main(arguments: list[str] | None = None, prog: str | None = None):
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("weights", help="a .weights.h5 or .keras file")
    parser.add_argument("out", help="folder for the pipeline")
    statistics = {"type": float, "nargs": "+", "metavar": "X"}
    parser.add_argument("--image_mean", **statistics, help="mean of every channel of the training images in [0, 1]")
    parser.add_argument("--image_std", **statistics, help="standard deviation of every channel")
    parser.add_argument("--sample_size", type=int, default=64, help="side of the images")
    parser.add_argument("--block_out_channels", type=int, nargs="+", default=[32, 64, 96, 128], help="widths")
    parser.add_argument("--layers_per_block", type=int, default=2, help="residual blocks at each resolution")
    args = vars(parser.parse_args(arguments))
    weights, out = args.pop("weights"), args.pop("out")
    convert_keras(weights, **args).save_pretrained(out)
    print(f"The converted pipeline is in {out}.")
