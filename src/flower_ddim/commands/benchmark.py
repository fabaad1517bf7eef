"""Measures speed and memory: `compare` with Keras and diffusers, `sizes` for the cost of larger pictures, networks and batches,
`device` for this package on a GPU, `runtimes` for what a model takes without PyTorch: in numpy and in a browser.

The numbers go into a JSON file, their tables into a document. The machine should have nothing else to do.
"""

import time
from dataclasses import asdict

from ..benchmarks.comparison import ENTRANTS, Settings, compare, default_entrants
from ..benchmarks.contenders import CONTENDERS
from ..benchmarks.device import MODES, DeviceSettings, measure_device
from ..benchmarks.processes import find_tensorflow
from ..benchmarks.report import (
    COMPARISON_TABLES,
    DEVICE_TABLES,
    RUNTIMES_TABLES,
    SIZES_TABLES,
    comparison_tables,
    device_tables,
    runtimes_tables,
    sizes_tables,
)
from ..benchmarks.runtimes import RuntimeSettings, measure_runtimes
from ..benchmarks.sizes import SizeSettings, measure_sizes
from ..entrance import Parser
from ..machine import describe_machine, has_bfloat16, usable_cores
from ..storage.documents import check_blocks, replace_block
from ..storage.files import check_output, write_json
from .options import add_model_option


def _parse(arguments, prog):
    parser = Parser(prog=prog, description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name, help, has_network=True):
        options = verbs.add_parser(name, help=help, description=help)
        options.add_argument("--output", default=f"{name}.json", help="file for the numbers")
        options.add_argument("--document", help="Markdown file to update: its blocks take the tables")
        options.add_argument("--threads", type=int, default=usable_cores(), help="threads of each contender")
        if not has_network:
            return options
        options.add_argument("--num_inference_steps", type=int, default=20, help="network evaluations per image")
        options.add_argument(
            "--block_out_channels", type=int, nargs="+", default=[32, 64, 96, 128], help="widths of the U-Net"
        )
        options.add_argument("--layers_per_block", type=int, default=2, help="residual blocks at each resolution")
        return options

    comparison = verb("compare", "sets contenders side by side: training, generation, first picture, memory")
    comparison.add_argument(
        "--contenders", nargs="+", default=default_entrants(), choices=ENTRANTS, help="who takes part"
    )
    comparison.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    comparison.add_argument("--train_batch_size", type=int, default=64, help="images in a training step")
    comparison.add_argument("--batch_size", type=int, default=16, help="images that are generated at a time")
    comparison.add_argument("--sample_size", type=int, default=64, help="side of the images in pixels")
    comparison.add_argument(
        "--tensorflow_python", help="interpreter with TensorFlow; .venv-bench/bin/python or this one if left out"
    )

    sizes = verb("sizes", "measures training and generation by pixels, width and batch size, and the memory they take")
    best = "flower_ddim-bfloat16" if has_bfloat16() else "flower_ddim-float32"
    whole = [name for name in ENTRANTS if CONTENDERS[name].step_share == 1]
    sizes.add_argument("--contender", default=best, choices=whole, help="what is measured")
    sizes.add_argument("--sample_sizes", type=int, nargs="+", default=[32, 64, 128], help="sides of the images")
    sizes.add_argument("--widths", type=int, nargs="+", default=[1, 2], help="factors of block_out_channels")
    sizes.add_argument(
        "--batch_sizes", type=int, nargs="+", default=[1, 4, 16, 64, 256], help="images at a time, rising"
    )
    sizes.add_argument("--measured_steps", type=int, default=2, help="steps measured of num_inference_steps")
    sizes.add_argument("--max_seconds", type=float, default=10.0, help="what is expected to take longer is left out")

    _add_device_options(
        verb(
            "device", "measures training and generation on the device that a training takes, a GPU", has_network=False
        )
    )
    _add_runtimes_options(
        verb("runtimes", "sets onnxruntime and a browser beside PyTorch, with the model itself", has_network=False)
    )
    return parser.parse_args(arguments)


def _add_device_options(device):
    device.add_argument("--modes", nargs="+", default=MODES, choices=MODES, help="dtype, and whether it is compiled")
    device.add_argument("--train_batch_sizes", type=int, nargs="+", default=[64, 256], help="images in a step")
    device.add_argument("--batch_sizes", type=int, nargs="+", default=[16, 256], help="images generated at a time")
    device.add_argument("--num_inference_steps", type=int, default=20, help="network evaluations per image")
    device.add_argument("--steps", type=int, default=30, help="training steps in a turn")
    device.add_argument("--rounds", type=int, default=3, help="turns of each")


def _add_runtimes_options(runtimes):
    add_model_option(runtimes)
    runtimes.add_argument(
        "--runtime", required=True, help="unpacked npm package onnxruntime-web, as for `flower-ddim web`"
    )
    runtimes.add_argument("--script", default="docs/onnx.md", help="Markdown with the sampler in numpy")
    runtimes.add_argument("--rounds", type=int, default=3, help="turns of each")
    runtimes.add_argument("--batch_size", type=int, default=16, help="images that are generated at a time")


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    check_output(args.output)
    if args.document:
        names = {
            "compare": COMPARISON_TABLES,
            "sizes": SIZES_TABLES,
            "runtimes": RUNTIMES_TABLES,
            "device": DEVICE_TABLES,
        }
        check_blocks(args.document, names[args.verb])
    options = {name: value for name, value in vars(args).items() if name not in ("verb", "output", "document")}
    result = {"machine": describe_machine(args.threads)}
    start = time.perf_counter()
    if args.verb == "compare":
        options["tensorflow_python"] = find_tensorflow(args.tensorflow_python)
        settings = Settings(**options)
        result |= compare(settings)
        tables = comparison_tables
    elif args.verb == "runtimes":
        settings = RuntimeSettings(**options)
        result |= measure_runtimes(settings)
        tables = runtimes_tables
    elif args.verb == "device":
        settings = DeviceSettings(**options)
        result["device"] = measure_device(settings)
        tables = device_tables
    else:
        settings = SizeSettings(**options)
        result["cells"] = measure_sizes(settings)
        tables = sizes_tables
    result |= {"settings": asdict(settings), "seconds": time.perf_counter() - start}
    write_json(args.output, result)
    for name, table in tables(result).items():
        print(f"{name}:\n\n{table}")
        if args.document:
            replace_block(args.document, name, table)
    print(f"The numbers are in {args.output}.")
