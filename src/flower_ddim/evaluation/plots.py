"""Figures of an evaluation. Each function returns a matplotlib Figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from ..figures.grids import image_grid
from ..storage.files import replacing
from .reports import evaluations


def write_figure(figure: Figure, path: str | Path):
    """Writes a figure aside and then puts it in its place; the ending of the path says in which format."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished)


def quality_by_steps(rows: Sequence[dict], by: str = "solver") -> Figure:
    """Plots KID over the number of network evaluations, a curve for each solver, from the rows of `quality_against_steps`.

    With `by="role"` it plots a curve for teacher and students each, from those of `compare_students`.
    """
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row[by] for row in rows):
        mine = [row for row in rows if row[by] == name]
        numbers = [evaluations(row) for row in mine]
        mean, std = (np.array([1000 * row["kid"][part] for row in mine]) for part in ("mean", "std"))
        (line,) = axes.plot(numbers, mean, marker=".", label=name)
        axes.fill_between(numbers, mean - std, mean + std, alpha=0.2, color=line.get_color(), linewidth=0)
    ticks = sorted({row["num_inference_steps"] for row in rows})
    axes.set(xscale="log", xlabel="network evaluations", ylabel="KID × 1000", xticks=ticks, xticklabels=ticks)
    axes.minorticks_off()
    axes.legend()
    return figure


def loss_by_noise(curves: dict[str, Sequence[dict]]) -> Figure:
    """Plots the loss over the diffusion time, a curve for each set of pictures, from the rows of `loss_by_noise_level`."""
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name, rows in curves.items():
        middles = [(row["from"] + row["to"]) / 2 for row in rows]
        losses, errors = ([row[key] for row in rows] for key in ("loss", "standard_error"))
        axes.errorbar(middles, losses, errors, marker=".", capsize=2, label=name)
    axes.set(xlabel="diffusion time u", ylabel="squared error of the velocity", xlim=(0, 1), ylim=(0, None))
    axes.legend()
    return figure


def closest_pairs(pairs: Sequence[tuple[float, torch.Tensor]]) -> Figure:
    """Draws generated images above the nearest training images, with the distance in feature space."""
    rows = zip(*([image.permute(1, 2, 0).squeeze(-1).numpy() for image in pair] for _, pair in pairs), strict=True)
    return image_grid(
        list(rows),
        row_labels=["generated", "nearest in\ntraining set"],
        column_labels=[f"{distance:.1f}" for distance, _ in pairs],
    )


def nearest_distances(distances: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Figure:
    """Draws histograms of the distances to the nearest training image, of generated and held-out images, in every space."""
    figure = Figure(figsize=(4.5 * len(distances), 3.2), dpi=100, layout="constrained")
    for axes, (space, sets) in zip(
        figure.subplots(1, len(distances), squeeze=False)[0], distances.items(), strict=True
    ):
        bins = np.linspace(0, max(part.max().item() for part in sets), 41)
        for part, label in zip(sets, ("generated", "held-out photographs"), strict=True):
            axes.hist(part.numpy(), bins, density=True, histtype="stepfilled", alpha=0.5, label=label)
        axes.set(xlabel=f"distance to the nearest training image, {space}", yticks=[])
        axes.legend()
    return figure
