"""Turns weights of the book's network in Keras into a pipeline folder, or with `--to keras` a pipeline into such weights."""

from argparse import ArgumentTypeError

from .. import FlowerDDIMPipeline
from ..conversion.from_keras import convert_keras
from ..conversion.to_keras import export_keras
from ..entrance import Parser, model_folder
from ..storage.files import check_output


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    source, out, to = (args.pop(name) for name in ("source", "out", "to"))
    if to == "keras":
        _to_keras(source, out)
    else:
        convert_keras(source, **args).save_pretrained(out)
        print(f"The converted pipeline is in {out}.")


def _parse(arguments, prog) -> dict:
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument(
        "source", help="a .weights.h5 or .keras file; for Keras a pipeline, by folder, name or id on the Hub"
    )
    parser.add_argument("out", help="folder for the pipeline; for Keras a file that ends in .weights.h5")
    parser.add_argument("--to", default="pipeline", choices=["pipeline", "keras"], help="what it is turned into")
    statistics = {"type": float, "nargs": "+", "metavar": "X"}
    parser.add_argument("--image_mean", **statistics, help="mean of every channel of the training images in [0, 1]")
    parser.add_argument("--image_std", **statistics, help="standard deviation of every channel")
    parser.add_argument("--sample_size", type=int, default=64, help="side of the images")
    parser.add_argument("--block_out_channels", type=int, nargs="+", default=[32, 64, 96, 128], help="widths")
    parser.add_argument("--layers_per_block", type=int, default=2, help="residual blocks at each resolution")
    args = vars(parser.parse_args(arguments))
    if args["to"] == "keras":
        of_files = ("image_mean", "image_std", "sample_size", "block_out_channels", "layers_per_block")
        if given := next((name for name in of_files if args[name] != parser.get_default(name)), None):
            parser.error(f"--{given} is for weights of Keras, of which a file says too little: leave it out.")
        try:
            args["source"] = model_folder(args["source"])
        except ArgumentTypeError as error:
            parser.error(str(error))
    return args


def _to_keras(source: str, out: str):
    check_output(out)
    pipe = FlowerDDIMPipeline.from_pretrained(source)
    export_keras(pipe, out)
    config = pipe.unet.config
    mean, std = (
        [value] * 3 if isinstance(value, (int, float)) else list(value)
        for value in (config.image_mean, config.image_std)
    )
    print(f"The weights are in {out}: `ddm.ema_network.load_weights({out!r})` reads them.")
    print(
        f"The pictures of its training, in [0, 1], have mean={mean} and variance={[value**2 for value in std]}: with them"
    )
    print("`ddm.normalizer = layers.Normalization(mean=…, variance=…)` is that of this model.")
