"""Options of several subcommands."""

from .. import PRETRAINED
from ..entrance import Parser, model_folder


def add_model_option(parser: Parser):
    """Adds `--model`: a folder, a model that comes with the package, or an id on the Hub; see [`model_folder`]."""
    help = "model folder, name of a shipped model, or id on the Hub"
    parser.add_argument("--model", type=model_folder, default=PRETRAINED, help=help)


def add_format_option(parser: Parser):
    """Adds `--format`, the ending of figures, as `image_format`."""
    formats = ("png", "webp", "svg", "pdf")
    parser.add_argument("--format", dest="image_format", default="png", choices=formats, help="of the figures")
