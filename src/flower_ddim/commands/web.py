"""Writes a page on which a model generates in the visitor's browser: static files for any server, or for a Space on the Hub."""

from .. import FlowerDDIMPipeline
from ..conversion.to_onnx import WEIGHTS
from ..entrance import Parser, model_folder
from ..web.site import write_site


def main(arguments: list[str] | None = None, prog: str | None = None):
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument(
        "model", type=model_folder, help="folder of a pipeline, id on the Hub, or name of a shipped model"
    )
    parser.add_argument("out", help="folder for the page")
    parser.add_argument("--weights", default="float32", choices=WEIGHTS, help="float16 halves what visitors download")
    parser.add_argument(
        "--runtime",
        help="unpacked npm package onnxruntime-web, to be copied; otherwise a public server gives its files",
    )
    args = parser.parse_args(arguments)
    write_site(FlowerDDIMPipeline.from_pretrained(args.model), args.out, args.runtime, args.weights)
    source = "comes with it" if args.runtime else "is fetched from a public server (cdn.jsdelivr.net) and checked"
    print(f"The page is in {args.out}; its runtime {source}. See it with `python -m http.server -d {args.out}`.")
