"""Exports a model for runtimes without PyTorch: unet.onnx, and sampler.json for whoever writes a sampler."""

from .. import FlowerDDIMPipeline
from ..conversion.to_onnx import WEIGHTS, export_onnx
from ..entrance import Parser, model_folder


def main(arguments: list[str] | None = None, prog: str | None = None):
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument(
        "model", type=model_folder, help="folder of a pipeline, id on the Hub, or name of a shipped model"
    )
    parser.add_argument("out", help="folder for both files")
    parser.add_argument("--weights", default="float32", choices=WEIGHTS, help="float16 halves the file")
    args = parser.parse_args(arguments)
    export_onnx(FlowerDDIMPipeline.from_pretrained(args.model), args.out, args.weights)
    print(f"The exported model is in {args.out}; docs/onnx.md shows a sampler in numpy.")
