"""Figures of generated images, and of the way to them."""

import textwrap
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure

from ..sampling.generate import COMPARED_STEPS
from .grids import captioned_grid, image_grid


def samples_by_epoch(pipes: Iterable[tuple[str, DiffusionPipeline]], latents: torch.Tensor) -> Figure:
    """Draws a row of images for every pipeline of a training, given with its label, from the same latents (B, C, H, W)."""
    labels, rows = zip(*((label, generated(pipe, latents)) for label, pipe in pipes), strict=True)
    return image_grid(rows, row_labels=labels)


def steps(pipe: DiffusionPipeline, latents: torch.Tensor, numbers: Sequence[int] = COMPARED_STEPS) -> Figure:
    """Draws images from the same latents (B, C, H, W) with more steps in every column, and the seconds per image."""
    columns, labels = [], []
    for number in numbers:
        start = time.perf_counter()
        columns.append(generated(pipe, latents, number))
        seconds = (time.perf_counter() - start) / len(latents)
        labels.append(f"{number} step{'s' if number > 1 else ''}\n{seconds:.2g} s")
    return image_grid(list(zip(*columns, strict=True)), column_labels=labels)


def in_few_steps(pipes: Iterable[tuple[str, DiffusionPipeline, int]], latents: torch.Tensor) -> Figure:
    """Draws a row of images for every pipeline, given with label and number of steps, from the same latents (B, C, H, W)."""
    labels, rows = [], []
    for label, pipe, number in pipes:
        labels.append(f"{label}\n{number} step{'s' if number > 1 else ''}")
        rows.append(generated(pipe, latents, number))
    return image_grid(rows, row_labels=labels)


def interpolation(
    pipe: DiffusionPipeline, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], num_images: int = 11
) -> Figure:
    """Draws a strip from noise to noise for every pair of noises (C, H, W)."""
    strips = [pipe.interpolate(*pair, num_images=num_images, output_type="np").images for pair in pairs]
    return image_grid(strips, column_labels=[f"w = {w:.2g}" for w in np.linspace(0, 1, num_images)])


def trajectory(noisy: Sequence[np.ndarray], predicted: Sequence[np.ndarray], columns: int = 11) -> Figure:
    """Draws evenly chosen states of a generation (see [`trajectory_states`]): x_t above, x̂_0 below."""
    chosen = np.unique(np.linspace(0, len(noisy) - 1, columns).round().astype(int))
    return image_grid(
        [[noisy[i] for i in chosen], [predicted[i] for i in chosen]],
        row_labels=["x_t", "x̂_0"],
        column_labels=[f"u = {1 - i / len(noisy):.2f}" for i in chosen],
    )


@torch.no_grad()
def trajectory_states(
    pipe: DiffusionPipeline, latents: torch.Tensor, num_inference_steps: int | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Generates one image; returns the noisy images x_t and the predicted images x̂_0 of all steps, each (H, W, C) in [0, 1].

    Args:
        latents: the noise, shape (1, C, H, W).
    """
    noisy, predicted = [], []
    for state in pipe.denoise(latents, num_inference_steps):
        noisy.append(pipe.postprocess(state.noisy, "np")[0])
        predicted.append(pipe.postprocess(state.predicted, "np")[0])
    return noisy, predicted


def classes(pipe: DiffusionPipeline, latents: torch.Tensor, labels: Sequence[str | int]) -> Figure:
    """Draws a row of images for every noise of (B, C, H, W), of another class in every column."""
    columns = [generated(pipe, latents, class_labels=label) for label in labels]
    return image_grid(list(zip(*columns, strict=True)), column_labels=[_wrapped(label) for label in labels])


def every_class(pipe: DiffusionPipeline, latents: torch.Tensor, columns: int = 12) -> Figure:
    """Draws an image of every class that has a name, each from its own noise of (number of classes, C, H, W).

    The model must have names for its classes (`pipe.labels`).
    """
    names = list(pipe.labels)
    images = [generated(pipe, noise[None], class_labels=name)[0] for name, noise in zip(names, latents, strict=True)]
    return captioned_grid(images, [_wrapped(name) for name in names], columns)


def class_interpolation(
    pipe: DiffusionPipeline, latents: torch.Tensor, pairs: Sequence[tuple[str | int, str | int]], num_images: int = 11
) -> Figure:
    """Draws a strip from class to class for every pair of classes, each from one noise of (B, C, H, W) all along."""
    strips = [
        pipe.interpolate(noise, noise, class_labels=pair, num_images=num_images, output_type="np").images
        for noise, pair in zip(latents, pairs, strict=True)
    ]
    labels = [f"{_wrapped(a)} →\n{_wrapped(b)}" for a, b in pairs]
    return image_grid(strips, row_labels=labels)


def _wrapped(label: str | int) -> str:
    """A name in lines that an image is wide enough for."""
    return textwrap.fill(str(label), 14)


def generated(
    pipe: DiffusionPipeline, latents: torch.Tensor, num_inference_steps: int | None = None, **options
) -> np.ndarray:
    """Generates images (B, H, W, C) in [0, 1] from noise; `options` are the pipeline's."""
    options |= {"num_inference_steps": num_inference_steps, "output_type": "np"}
    return pipe(batch_size=len(latents), latents=latents, **options).images
