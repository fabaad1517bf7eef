"""Serves a page to play with a model in the browser: run this, then open the address that it prints."""

from accelerate import PartialState

from .. import FlowerDDIMPipeline
from ..entrance import Parser
from .options import add_model_option


def main(arguments: list[str] | None = None, prog: str | None = None):
    parser = Parser(prog=prog, description=__doc__)
    add_model_option(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
    parser.add_argument("--port", type=int, help="port to listen on; by default the first free one from 7860")
    args = parser.parse_args(arguments)
    from ..app.page import LAUNCH, build_page  # needs gradio

    page = build_page(FlowerDDIMPipeline.from_pretrained(args.model).to(PartialState().device))
    page.launch(server_name=args.host, server_port=args.port, **LAUNCH)
