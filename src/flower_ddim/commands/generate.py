"""Generates images: a grid (`--output flowers.png`), or many files (`--output_dir DIR`), which processes share."""

import math
import time
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers.utils import make_image_grid
from PIL import Image

from .. import FlowerDDIMPipeline
from ..entrance import Parser
from ..sampling.compilation import compile_unet
from ..sampling.generate import generate_folder, generate_numbers
from ..sampling.solvers import SOLVERS, with_solver
from ..storage.files import check_output, replacing
from .options import add_model_option


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    if args.output_dir is None:
        _write_grid(args)
    else:
        names = ("num_images", "num_inference_steps", "eta", "seed", "batch_size", "dtype", "compile", "solver")
        options = {name: getattr(args, name) for name in names}
        print(f"The images are in {generate_folder(args.model, args.output_dir, **options)}.")


def _parse(arguments, prog):
    parser = Parser(prog=prog, description=__doc__)
    add_model_option(parser)
    parser.add_argument("--num_images", type=int, default=16, help="number of images")
    parser.add_argument("--num_inference_steps", type=int, default=20, help="network evaluations per image")
    parser.add_argument("--solver", default="ddim", choices=SOLVERS, help="sampler; unipc needs half of DDIM's steps")
    parser.add_argument("--eta", type=float, default=0.0, help="0 is deterministic DDIM, 1 like DDPM")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the next one has the next seed")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="what the network computes in"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network: less than a minute's wait, then faster batches"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--output", default="flowers.png", help="file of the grid")
    target.add_argument("--output_dir", help="folder for single files instead; what is there already is kept")
    parser.add_argument("--cell_size", type=int, default=192, help="side of an enlarged image in the grid, in pixels")
    parser.add_argument("--batch_size", type=int, default=64, help="single files generated at a time in each process")
    return parser.parse_args(arguments)


def _write_grid(args):
    if Image.registered_extensions().get(Path(args.output).suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{args.output} can hold no picture: let its name end in .png or .webp.")
    check_output(args.output)
    pipe = FlowerDDIMPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    pipe.to(PartialState().device)
    if args.compile:
        compile_unet(pipe.unet)
        start = time.perf_counter()
        pipe(args.num_images, num_inference_steps=1, output_type="latent")
        print(f"Compiling took {time.perf_counter() - start:.1f} s.")
    pipe = with_solver(pipe, args.solver)
    options = {"num_inference_steps": args.num_inference_steps, "eta": args.eta}
    start = time.perf_counter()
    images = generate_numbers(pipe, range(args.num_images), args.seed, **options)
    seconds = time.perf_counter() - start

    columns = math.ceil(math.sqrt(args.num_images))
    rows = math.ceil(args.num_images / columns)
    blank = Image.new(images[0].mode, images[0].size, "white")
    images += [blank] * (rows * columns - args.num_images)
    grid = make_image_grid(images, rows, columns, resize=args.cell_size)
    with replacing(args.output) as unfinished:
        grid.save(unfinished)
    print(f"{args.num_images} images in {args.num_inference_steps} steps took {seconds:.1f} s: {args.output}")
