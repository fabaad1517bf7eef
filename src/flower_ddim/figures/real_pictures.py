"""Figures of real pictures, the noise that `invert` finds for them, and what comes of it."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure

from .generation import generated
from .grids import image_grid


# Pairs (steps, fixed-point iterations) of the table of inversions. 0 iterations stand for the reversed grid.
INVERSIONS = ((20, 0), (20, 1), (20, 2), (20, 3), (20, 5), (50, 0), (50, 1), (50, 3))


def inversion(pipe: DiffusionPipeline, images, num_inference_steps: int | None = None) -> Figure:
    """Draws real images, the noise that `invert` finds for each, and the image from that noise, with the mean absolute error."""
    real = real_pixels(pipe, images)
    noise = pipe.invert(images, num_inference_steps)
    rebuilt = generated(pipe, noise, num_inference_steps)
    noise_pixels = noise.permute(0, 2, 3, 1).cpu().numpy() / 6 + 0.5  # ±3 standard deviations
    labels = [
        f"std {deviation:.2f}\nerror {error:.3f}"
        for deviation, error in zip(noise.std((1, 2, 3)).tolist(), abs(rebuilt - real).mean((1, 2, 3)), strict=True)
    ]
    return image_grid([real, noise_pixels, rebuilt], row_labels=["real", "its noise", "rebuilt"], column_labels=labels)


def real_interpolation(pipe: DiffusionPipeline, images, num_images: int = 9) -> Figure:
    """Draws the way from one real image to another through the noise that `invert` finds, in three strips for every pair.

    Raises:
        ValueError: for fewer than two images, or an odd number of them.
    """
    if len(images) < 2 or len(images) % 2:
        raise ValueError(f"{len(images)} images make no pairs: give an even number of them.")
    noises = pipe.invert(images)
    strips, labels = [], []
    for a, b in noises.split(2):
        ways = {
            "as found": (a, b, False),
            "unit deviation": (a / a.std(), b / b.std(), False),
            "rescale=True": (a, b, True),
        }
        for label, (start, end, rescale) in ways.items():
            strip = pipe.interpolate(start, end, num_images=num_images, rescale=rescale, output_type="np")
            strips.append(strip.images)
            labels.append(f"{label}\nstd {start.std():.2f} to {end.std():.2f}")
    return image_grid(strips, row_labels=labels)


def inversion_table(pipe: DiffusionPipeline, images, settings: Sequence[tuple[int, int]] = INVERSIONS) -> str:
    """Writes a Markdown table of the error of rebuilt images against the cost of finding their noise.

    Args:
        images: what `pipe.preprocess` takes.
        settings: pairs of steps and fixed-point iterations per step. 0 iterations stand for the reversed grid.
    """
    real = real_pixels(pipe, images)
    mean_color = abs(real - real.mean((0, 1, 2))).mean()
    lines = [
        f"Mean absolute error over {len(real)} images, with pixels in [0, 1]; predicting the mean colour scores {mean_color:.3f}.",
        "",
        "| steps | iterations per step | network evaluations | error | worst image | standard deviation of the noise |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for number, iterations in settings:
        reversed_grid = iterations == 0
        noise = (
            invert_by_reversed_grid(pipe, images, number) if reversed_grid else pipe.invert(images, number, iterations)
        )
        errors = abs(generated(pipe, noise, number) - real).mean((1, 2, 3))
        lines.append(
            f"| {number} | {'reversed grid' if reversed_grid else iterations} | {number * max(1, iterations)} | "
            f"{errors.mean():.4f} | {errors.max():.4f} | {noise.std():.2f} |"
        )
    return "\n".join(lines) + "\n"


@torch.no_grad()
def invert_by_reversed_grid(pipe: DiffusionPipeline, images, num_inference_steps: int) -> torch.Tensor:
    """Reverses each step with the prediction for the state before (Song et al. 2020, section 4.3); `pipe.invert` does better."""
    latents = pipe.preprocess(images).to(pipe.device)
    pipe.scheduler.set_timesteps(num_inference_steps, device=latents.device)
    for timestep in pipe.scheduler.timesteps.flip(0):
        model_output = pipe.unet(latents, timestep).sample
        latents = pipe.scheduler.invert_step(model_output, timestep, latents, latents)
    return latents


def real_pixels(pipe: DiffusionPipeline, images) -> np.ndarray:
    """Converts pictures of any form to what the model sees: (B, H, W, C) in [0, 1]."""
    return pipe.postprocess(pipe.preprocess(images), "np")
