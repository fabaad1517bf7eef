"""Exports a model for runtimes without PyTorch: unet.onnx, and sampler.json for whoever writes a sampler."""

from .. import FlowerDDIMPipeline
from ..conversion.to_onnx import export_onnx
from ..entrance import Parser
from .options import add_export_options


def main(arguments: list[str] | None = None, prog: str | None = None):
    parser = Parser(prog=prog, description=__doc__)
    add_export_options(parser, out="both files", weights="float16 halves the file")
    args = parser.parse_args(arguments)
    export_onnx(FlowerDDIMPipeline.from_pretrained(args.model), args.out, args.weights)
    print(f"The exported model is in {args.out}; docs/onnx.md shows a sampler in numpy.")
