"""Options of several subcommands."""

from .. import PRETRAINED
from ..conversion.to_onnx import WEIGHTS
from ..entrance import Parser, model_folder


def add_model_option(parser: Parser):
    """Adds `--model`: a folder, a model that comes with the package, or an id on the Hub; see [`model_folder`]."""
    help = "model folder, name of a shipped model, or id on the Hub"
    parser.add_argument("--model", type=model_folder, default=PRETRAINED, help=help)


def add_format_option(parser: Parser):
    """Adds `--format`, the ending of figures, as `image_format`."""
    formats = ("png", "webp", "svg", "pdf")
    parser.add_argument("--format", dest="image_format", default="png", choices=formats, help="of the figures")


def add_steps_option(parser: Parser):
    """Adds `--num_inference_steps`, which a model recommends where nobody gives it."""
    help = "sampling steps; if left out, as many as the model is made for, or 20"
    parser.add_argument("--num_inference_steps", type=int, help=help)


def add_dtype_option(parser: Parser):
    """Adds `--dtype`, by its name."""
    dtypes = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", default="float32", choices=dtypes, help="dtype that the network computes in")


def add_class_options(parser: Parser, labels: str):
    """Adds `--class_labels`, of which `labels` says what they are for, and `--guidance_scale`."""
    parser.add_argument("--class_labels", nargs="+", metavar="NAME", help=f"{labels}: names or indices")
    help = "strength of guidance to the class; 1 is none and twice as fast, what the model recommends if left out"
    parser.add_argument("--guidance_scale", type=float, help=help)


def add_export_options(parser: Parser, out: str, weights: str):
    """Adds the model to export, the folder for it, of which `out` says what it holds, and `--weights`, which `weights` explains."""
    parser.add_argument(
        "model", type=model_folder, help="folder of a pipeline, id on the Hub, or name of a shipped model"
    )
    parser.add_argument("out", help=f"folder for {out}")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        help=f"{weights}; by default it is taken where nothing is lost, as for a model that was saved in it",
    )
