"""Writes a page on which a model generates in the visitor's browser: static files for any server, or for a Space on the Hub."""

from .. import FlowerDDIMPipeline
from ..entrance import Parser
from ..web.site import write_site
from .options import add_export_options


def main(arguments: list[str] | None = None, prog: str | None = None):
    parser = Parser(prog=prog, description=__doc__)
    add_export_options(parser, out="the page", weights="float16 halves what visitors download")
    parser.add_argument(
        "--runtime",
        help="unpacked npm package onnxruntime-web, to be copied; otherwise a public server gives its files",
    )
    args = parser.parse_args(arguments)
    write_site(FlowerDDIMPipeline.from_pretrained(args.model), args.out, args.runtime, args.weights)
    source = "comes with it" if args.runtime else "is fetched from a public server (cdn.jsdelivr.net) and checked"
    print(f"The page is in {args.out}; its runtime {source}. See it with `python -m http.server -d {args.out}`.")
