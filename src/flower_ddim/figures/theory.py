"""Figures of what is fixed before any training: schedules, corruption and the noise embedding."""

import torch
from matplotlib.figure import Figure

from ..models.unet_flower_ddim import noise_embedding
from ..schedulers.noise_schedules import SCHEDULES, DiffusionSchedule
from .grids import as_pixels, image_grid


def schedules(num_points: int = 201) -> Figure:
    """Plots signal power ᾱ and noise power 1 - ᾱ of every schedule over the diffusion time."""
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
    """Draws an image under every schedule at evenly spaced diffusion times, always with the same noise.

    The last row is the schedule that the model uses, which begins with some noise and ends with some signal.

    Maps pixels from [0, 1] to [-1, 1] first, as Ho et al. 2020 do, and clips them for display.
    """
    clean = torch.from_numpy(as_pixels(image) / 127.5 - 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=clean.dtype)
    times = torch.linspace(0, 1, num_images, dtype=torch.float64)
    rows = []
    for name in SCHEDULES:
        rates = zip(*DiffusionSchedule(name).rates(times), strict=True)
        rows.append([((signal * clean + noise_rate * noise).numpy() + 1) / 2 for signal, noise_rate in rates])
    labels = [name.replace("_", "\n") for name in SCHEDULES]
    return image_grid(rows, row_labels=labels, column_labels=[f"u = {u:.2g}" for u in times.tolist()])


def embedding(embedding_dim: int = 32, num_points: int = 100) -> Figure:
    """Draws the noise embedding γ(v), embedding_dim × num_points, as a heat map over the noise power v from 0 to 1."""
    values = noise_embedding(torch.linspace(0, 1, num_points, dtype=torch.float64), embedding_dim).T
    figure = Figure(figsize=(7, 3), layout="constrained", dpi=100)
    axis = figure.subplots()
    heat_map = axis.imshow(
        values.numpy(), aspect="auto", cmap="coolwarm", vmin=-1, vmax=1, extent=(0, 1, embedding_dim, 0)
    )
    axis.set(xlabel="noise power v", ylabel="embedding dimension", title="noise embedding γ(v): sines, then cosines")
    figure.colorbar(heat_map)
    return figure
