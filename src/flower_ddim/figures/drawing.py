"""Figures of data, schedules, training and generation; each function returns a matplotlib Figure.

Nothing here belongs to the shipped model: images of any size, coloured or grey, and pipelines with other networks do as well.
Figures are made without pyplot, so no window opens and no backend is chosen. Images are arrays (H, W, C) or (H, W), uint8 or
floating point in [0, 1], or PIL images.
"""

import time
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure
from PIL import Image

from ..models.unet_flower_ddim import noise_embedding
from ..sampling.generate import COMPARED_STEPS
from ..schedulers.noise_schedules import SCHEDULES, DiffusionSchedule
from ..storage.files import read_metrics


CELL = 0.9  # side of an image in a grid, in inches
# (steps, fixed-point iterations) of the table of inversions; no iterations stand for the merely reversed grid.
INVERSIONS = ((20, 0), (20, 1), (20, 2), (20, 3), (20, 5), (50, 0), (50, 1), (50, 3))


def image_grid(rows: Sequence[Sequence], row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()) -> Figure:
    """Images in rows and columns, with labels on the left and on top; short rows leave their last places empty."""
    columns = max(len(row) for row in rows)
    label_lines = max((label.count("\n") + 1 for label in column_labels), default=0)
    top = 0.15 * label_lines + 0.08 * bool(label_lines)  # inches
    left = 0.08 * max((len(line) for label in row_labels for line in label.split("\n")), default=0)
    width, height = left + columns * CELL, top + len(rows) * CELL
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(left=left / width, right=1, bottom=0, top=1 - top / height, wspace=0.04, hspace=0.04)
    for i, row in enumerate(rows):
        for j, axis in enumerate(axes[i]):
            axis.set(xticks=[], yticks=[], frame_on=False)
            if j < len(row):
                axis.imshow(as_pixels(row[j]), cmap="gray", vmin=0, vmax=255)
        if row_labels:
            axes[i][0].set_ylabel(row_labels[i], rotation=0, ha="right", va="center", fontsize=8)
    for axis, label in zip(axes[0], column_labels, strict=False):
        axis.set_title(label, fontsize=8, pad=3)
    return figure


def as_pixels(image) -> np.ndarray:
    """An image as uint8 array, (H, W, 3) or, where it is grey, (H, W)."""
    array = np.asarray(image)
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def dataset(images: Sequence, columns: int = 8) -> Figure:
    """A grid of images of a data set, row by row."""
    return image_grid([images[i : i + columns] for i in range(0, len(images), columns)])


def schedules(num_points: int = 201) -> Figure:
    """Signal power ᾱ and noise power 1 - ᾱ of every schedule over the diffusion time."""
    figure = Figure(figsize=(8, 3.2), layout="constrained", dpi=100)
    signal_axis, noise_axis = figure.subplots(1, 2, sharey=True)
    diffusion_time = torch.linspace(0, 1, num_points)
    for name in SCHEDULES:
        signal_rate, noise_rate = DiffusionSchedule(name).rates(diffusion_time)
        signal_axis.plot(diffusion_time.numpy(), (signal_rate**2).numpy(), label=name)
        noise_axis.plot(diffusion_time.numpy(), (noise_rate**2).numpy(), label=name)
    signal_axis.set(xlabel="diffusion time u", ylabel="power", title="signal power ᾱ")
    noise_axis.set(xlabel="diffusion time u", title="noise power 1 - ᾱ")
    signal_axis.legend()
    return figure


def corruption(image, num_images: int = 11, seed: int = 0) -> Figure:
    """One image under the linear and the cosine schedule at evenly spaced diffusion times, with the same noise in every panel.

    Pixels are mapped from [0, 1] to [-1, 1] for it, as by Ho et al. 2020, and clipped for display.
    """
    clean = torch.from_numpy(as_pixels(image) / 127.5 - 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=clean.dtype)
    times = torch.linspace(0, 1, num_images, dtype=torch.float64)
    names = ("linear", "cosine")
    rows = []
    for name in names:
        rates = zip(*DiffusionSchedule(name).rates(times), strict=True)
        rows.append([((signal * clean + noise_rate * noise).numpy() + 1) / 2 for signal, noise_rate in rates])
    return image_grid(rows, row_labels=names, column_labels=[f"u = {u:.2g}" for u in times.tolist()])


def embedding(embedding_dim: int = 32, num_points: int = 100) -> Figure:
    """Heat map of the noise embedding γ(v), embedding_dim × num_points, over the noise power v from 0 to 1."""
    values = noise_embedding(torch.linspace(0, 1, num_points, dtype=torch.float64), embedding_dim).T
    figure = Figure(figsize=(7, 3), layout="constrained", dpi=100)
    axis = figure.subplots()
    heat_map = axis.imshow(
        values.numpy(), aspect="auto", cmap="coolwarm", vmin=-1, vmax=1, extent=(0, 1, embedding_dim, 0)
    )
    axis.set(xlabel="noise power v", ylabel="embedding dimension", title="noise embedding γ(v): sines, then cosines")
    figure.colorbar(heat_map)
    return figure


def loss_curve(metrics: Sequence[str | PathLike], images_per_epoch: int | None = None) -> Figure:
    """Loss over the training, from the `metrics.jsonl` of one or more runs; validation losses are dashed.

    Args:
        metrics: files with one JSON object a line, with `images` (seen so far) and `loss` or a `validation_loss…`.
        images_per_epoch: images of an epoch, for an axis in epochs; otherwise it is in thousands of images.

    Raises:
        ValueError: if a file holds no losses.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained", dpi=100)
    axis = figure.subplots()
    for path in map(Path, metrics):
        lines = read_metrics(path)
        keys = sorted({key for line in lines for key in line if key == "loss" or key.startswith("validation_loss")})
        if not keys:
            raise ValueError(f"{path} holds no losses: name a metrics.jsonl that a training run has written.")
        for key in keys:
            points = [(line["images"] / (images_per_epoch or 1000), line[key]) for line in lines if key in line]
            name = key.replace("_", " ") if len(metrics) == 1 else f"{path.parent.name}: {key.replace('_', ' ')}"
            # Validations may be few, even one: without markers a single one would not be seen.
            axis.plot(*zip(*points, strict=True), "-" if key == "loss" else "--.", linewidth=1.2, label=name)
    axis.set(xlabel="epoch" if images_per_epoch else "thousand images seen", ylabel="loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def generated(pipe: DiffusionPipeline, latents: torch.Tensor, num_inference_steps: int = 20) -> np.ndarray:
    """Images (B, H, W, C) in [0, 1] that a pipeline makes of noise."""
    return pipe(
        batch_size=len(latents), latents=latents, num_inference_steps=num_inference_steps, output_type="np"
    ).images


def samples_by_epoch(pipes: Iterable[tuple[str, DiffusionPipeline]], latents: torch.Tensor) -> Figure:
    """What pipelines of the same training, each with its label, make of the same latents (B, C, H, W): one row each."""
    labels, rows = zip(*((label, generated(pipe, latents)) for label, pipe in pipes), strict=True)
    return image_grid(rows, row_labels=labels)


def steps(pipe: DiffusionPipeline, latents: torch.Tensor, numbers: Sequence[int] = COMPARED_STEPS) -> Figure:
    """Quality against the number of steps: the same latents (B, C, H, W) in every column, with seconds per image."""
    columns, labels = [], []
    for number in numbers:
        start = time.perf_counter()
        columns.append(generated(pipe, latents, number))
        seconds = (time.perf_counter() - start) / len(latents)
        labels.append(f"{number} step{'s' if number > 1 else ''}\n{seconds:.2g} s")
    return image_grid(list(zip(*columns, strict=True)), column_labels=labels)


def interpolation(
    pipe: DiffusionPipeline, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], num_images: int = 11
) -> Figure:
    """One strip from noise to noise for every pair of noises (C, H, W)."""
    strips = [pipe.interpolate(*pair, num_images=num_images, output_type="np").images for pair in pairs]
    return image_grid(strips, column_labels=[f"w = {w:.2g}" for w in np.linspace(0, 1, num_images)])


def real_interpolation(pipe: DiffusionPipeline, images, num_images: int = 9) -> Figure:
    """Ways from one real image to another through the noise that `invert` finds, three strips for each pair of images."""
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


def inversion(pipe: DiffusionPipeline, images, num_inference_steps: int = 20) -> Figure:
    """Real images, the noise that `invert` finds for each, and what is generated from it, with the mean absolute error."""
    real = real_pixels(pipe, images)
    noise = pipe.invert(images, num_inference_steps)
    rebuilt = generated(pipe, noise, num_inference_steps)
    noise_pixels = noise.permute(0, 2, 3, 1).cpu().numpy() / 6 + 0.5  # ±3 standard deviations
    labels = [
        f"std {deviation:.2f}\nerror {error:.3f}"
        for deviation, error in zip(noise.std((1, 2, 3)).tolist(), abs(rebuilt - real).mean((1, 2, 3)), strict=True)
    ]
    return image_grid([real, noise_pixels, rebuilt], row_labels=["real", "its noise", "rebuilt"], column_labels=labels)


def real_pixels(pipe: DiffusionPipeline, images) -> np.ndarray:
    """Pictures of any form as the model would show them: (B, H, W, C) in [0, 1]."""
    return pipe.postprocess(pipe.preprocess(images), "np")


@torch.no_grad()
def invert_by_reversed_grid(pipe: DiffusionPipeline, images, num_inference_steps: int) -> torch.Tensor:
    """What `pipe.invert` is compared with: each step reversed with the prediction for the state before (Song et al. 2020)."""
    latents = pipe.preprocess(images).to(pipe.device)
    pipe.scheduler.set_timesteps(num_inference_steps, device=latents.device)
    for timestep in pipe.scheduler.timesteps.flip(0):
        model_output = pipe.unet(latents, timestep).sample
        latents = pipe.scheduler.invert_step(model_output, timestep, latents, latents)
    return latents


def inversion_table(pipe: DiffusionPipeline, images, settings: Sequence[tuple[int, int]] = INVERSIONS) -> str:
    """Markdown table of the error of rebuilt images against what finding their noise costs.

    Args:
        images: what `pipe.preprocess` takes.
        settings: pairs of steps and fixed-point iterations per step, where 0 iterations stand for the merely reversed grid.
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
def trajectory_states(
    pipe: DiffusionPipeline, latents: torch.Tensor, num_inference_steps: int = 20
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The noisy images x_t and the predicted images x̂_0 at every step of one generation, each (H, W, C) in [0, 1].

    Args:
        latents: the noise, shape (1, C, H, W).
    """
    scheduler, latents = pipe.scheduler, latents.to(pipe.device)
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    noisy, predicted = [], []
    for timestep in scheduler.timesteps:
        output = scheduler.step(pipe.unet(latents, timestep).sample, timestep, latents)
        noisy.append(pipe.postprocess(latents, "np")[0])
        predicted.append(pipe.postprocess(output.pred_original_sample, "np")[0])
        latents = output.prev_sample
    return noisy, predicted


def trajectory(noisy: Sequence[np.ndarray], predicted: Sequence[np.ndarray], columns: int = 11) -> Figure:
    """Evenly chosen states of a generation (see [`trajectory_states`]): x_t above, x̂_0 below."""
    chosen = np.unique(np.linspace(0, len(noisy) - 1, columns).round().astype(int))
    return image_grid(
        [[noisy[i] for i in chosen], [predicted[i] for i in chosen]],
        row_labels=["x_t", "x̂_0"],
        column_labels=[f"u = {1 - i / len(noisy):.2f}" for i in chosen],
    )


def trajectory_frames(noisy: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> list[Image.Image]:
    """Frames of an animation with x_t on the left and x̂_0 on the right; the last one stands for a while."""
    frames = [Image.fromarray(np.hstack([as_pixels(a), as_pixels(b)])) for a, b in zip(noisy, predicted, strict=True)]
    return frames + frames[-1:] * 8


def check_animation(path: str | PathLike, frames_per_second: float):
    """Raises a ValueError where [`save_animation`] could not write: for whoever makes the frames first."""
    if frames_per_second <= 0:
        raise ValueError(f"`frames_per_second` is {frames_per_second}, but must be positive.")
    if Path(path).suffix.lower() not in (".gif", ".webp"):
        raise ValueError(f"{path} can hold no animation: let its name end in .gif or .webp.")


def save_animation(
    frames: Sequence[Image.Image], path: str | PathLike, frames_per_second: float = 10, size: int | None = None
):
    """Writes frames as a GIF or WebP that repeats for ever, enlarged to `size` pixels of height where that is given.

    Raises:
        ValueError: if the name ends neither in .gif nor in .webp, or the speed is not positive.
    """
    check_animation(path, frames_per_second)
    if size is not None:
        frames = [f.resize((f.width * size // f.height, size), Image.Resampling.BICUBIC) for f in frames]
    first, *others = frames
    duration = round(1000 / frames_per_second)
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0, quality=75, method=6)
