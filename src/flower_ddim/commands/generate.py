"""Generates images: a grid (`--output flowers.png`), or many files (`--output_dir DIR`), which processes share."""

import math
import time
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers.utils import make_image_grid
from PIL import Image, ImageDraw, ImageFont

from .. import FlowerDDIMPipeline
from ..entrance import Parser
from ..machine import warn_of_emulated_bfloat16
from ..pipelines.loading import check_count, is_student
from ..sampling.compilation import compile_unet
from ..sampling.generate import generate_folder, generate_numbers, known_labels
from ..sampling.solvers import SOLVERS, with_solver
from ..storage.files import check_output, replacing
from .options import add_class_options, add_dtype_option, add_model_option, add_steps_option


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    if args.num_images is not None:
        check_count("num_images", args.num_images)
    if args.output_dir is None:
        _write_grid(args)
    else:
        names = ("num_inference_steps", "eta", "seed", "batch_size", "dtype", "compile", "solver")
        names += ("class_labels", "guidance_scale")
        options = {name: getattr(args, name) for name in names} | {"num_images": args.num_images or 16}
        print(f"The images are in {generate_folder(args.model, args.output_dir, **options)}.")


def _parse(arguments, prog):
    parser = Parser(prog=prog, description=__doc__)
    add_model_option(parser)
    parser.add_argument("--num_images", type=int, help="number of images (16); in a grid, of each class (4)")
    add_class_options(parser, "classes to generate, one a row of the grid, or one after the other as single files")
    add_steps_option(parser)
    parser.add_argument("--solver", default="ddim", choices=SOLVERS, help="sampler; unipc needs half of DDIM's steps")
    parser.add_argument("--eta", type=float, default=0.0, help="0 is deterministic DDIM, 1 like DDPM")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the next one has the next seed")
    add_dtype_option(parser)
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
    pipe.to(device := PartialState().device)
    warn_of_emulated_bfloat16(args.dtype, device.type)
    labels = known_labels(pipe, args.class_labels)
    num_images = args.num_images if args.num_images is not None else (4 if labels else 16)
    numbers = list(range(num_images)) * len(labels or [None])  # every row begins with the same noise
    options = {"num_inference_steps": args.num_inference_steps, "eta": args.eta, "guidance_scale": args.guidance_scale}
    if labels:
        options["class_labels"] = [label for label in labels for _ in range(num_images)]
    if args.compile:
        compile_unet(pipe.unet)
        start = time.perf_counter()
        quick = {} if is_student(pipe.unet) else {"num_inference_steps": 1}
        generate_numbers(pipe, numbers, args.seed, **options | quick)
        print(f"Compiling took {time.perf_counter() - start:.1f} s.")
    pipe = with_solver(pipe, args.solver)
    start = time.perf_counter()
    images = generate_numbers(pipe, numbers, args.seed, **options)
    seconds = time.perf_counter() - start

    columns = num_images if labels else math.ceil(math.sqrt(num_images))
    rows = math.ceil(len(images) / columns)
    blank = Image.new(images[0].mode, images[0].size, "white")
    grid = make_image_grid(images + [blank] * (rows * columns - len(images)), rows, columns, resize=args.cell_size)
    if labels:
        names = {index: name for name, index in pipe.labels.items()}
        grid = _captioned(grid, [names.get(label, f"class {label}") for label in labels])
    with replacing(args.output) as unfinished:
        grid.save(unfinished)
    steps = args.num_inference_steps or pipe.default_num_inference_steps
    print(f"{len(images)} images in {steps} steps took {seconds:.1f} s: {args.output}")


def _captioned(grid: Image.Image, captions: list[str]) -> Image.Image:
    """A grid with a caption to the left of every row."""
    height = grid.height // len(captions)
    font = ImageFont.load_default(size=max(8, height // 8))
    margin = max(map(int, map(font.getlength, captions))) + height // 4
    canvas = Image.new("RGB", (margin + grid.width, grid.height), "white")
    canvas.paste(grid, (margin, 0))
    draw = ImageDraw.Draw(canvas)
    for row, caption in enumerate(captions):
        draw.text((margin - height // 8, (row + 0.5) * height), caption, fill="black", font=font, anchor="rm")
    return canvas
