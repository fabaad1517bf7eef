"""Generates images and writes them as one grid: `python scripts/generate.py --num_images 16 --output flowers.png`."""

import math
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import torch
from diffusers.utils import make_image_grid
from PIL import Image

from flower_ddim import PRETRAINED, FlowerDDIMPipeline
from flower_ddim.cli import run


def main():
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=PRETRAINED, help="model folder, or id on the Hub")
    parser.add_argument("--num_images", type=int, default=16, help="number of images")
    parser.add_argument("--num_inference_steps", type=int, default=20, help="network evaluations per image")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the next one has the next seed")
    parser.add_argument("--output", default="flowers.png", help="file of the grid")
    parser.add_argument("--cell_size", type=int, default=192, help="side of an enlarged image in the grid, in pixels")
    args = parser.parse_args()

    pipe = FlowerDDIMPipeline.from_pretrained(args.model)
    generators = [torch.Generator().manual_seed(args.seed + i) for i in range(args.num_images)]
    start = time.perf_counter()
    images = pipe(
        batch_size=args.num_images, generator=generators, num_inference_steps=args.num_inference_steps
    ).images
    seconds = time.perf_counter() - start

    columns = math.ceil(math.sqrt(args.num_images))
    rows = math.ceil(args.num_images / columns)
    blank = Image.new(images[0].mode, images[0].size, "white")
    images += [blank] * (rows * columns - args.num_images)
    make_image_grid(images, rows, columns, resize=args.cell_size).save(args.output)
    print(f"{args.num_images} images in {args.num_inference_steps} steps took {seconds:.1f} s: {args.output}")


if __name__ == "__main__":
    run(main)
