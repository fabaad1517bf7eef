"""The loss over a training."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from matplotlib.figure import Figure

from ..storage.files import read_metrics


def loss_curve(metrics: Sequence[str | PathLike], images_per_epoch: int | None = None) -> Figure:
    """Plots the loss over the training, from the `metrics.jsonl` of one or more runs; validation losses are dashed.

    Args:
        metrics: files with one JSON object a line, with `images` (seen so far) and `loss` or a `validation_loss…`.
        images_per_epoch: images of an epoch, for an axis in epochs; without it the axis is in thousands of images.

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
            # There may be a single validation, which only a marker shows.
            axis.plot(*zip(*points, strict=True), "-" if key == "loss" else "--.", linewidth=1.2, label=name)
    axis.set(xlabel="epoch" if images_per_epoch else "thousand images seen", ylabel="loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
