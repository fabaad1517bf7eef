"""The option that names a model."""

from .. import PRETRAINED
from ..entrance import Parser, model_folder


def add_model_option(parser: Parser):
    """Adds `--model`: a folder, a model that comes with the package, or an id on the Hub; see [`model_folder`]."""
    help = "model folder, name of a shipped model, or id on the Hub"
    parser.add_argument("--model", type=model_folder, default=PRETRAINED, help=help)
