"""Measures the loss of a model at every level of noise, on pictures that it has seen or not."""

import torch
from tqdm.auto import tqdm

from ..data.image_array import ImageArray
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..sampling.seeds import Purpose, draw_noise_time_flip
from ..schedulers.noise_schedules import SIGNAL_RATE_FLOOR
from ..schedulers.scheduling_flower_ddim import FlowerDDIMScheduler


@torch.no_grad()
def loss_by_noise_level(
    pipe: FlowerDDIMPipeline,
    images: ImageArray,
    bins: int = 10,
    num_images: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> list[dict]:
    """Measures [`velocity_errors`] in equal bins of the diffusion time u, on every picture once in every bin.

    Args:
        num_images: number of pictures to take, evenly spread over all; by default all.

    Returns:
        For each bin its limits `from` and `to`, the mean `loss` over the pictures and its `standard_error`.
    """
    unet, device = pipe.unet.eval(), pipe.device
    # A stock scheduler knows no times between its timesteps.
    scheduler = FlowerDDIMScheduler.from_config(pipe.scheduler.config)
    chosen = torch.linspace(0, len(images) - 1, min(num_images or len(images), len(images))).round().long().tolist()
    rows = []
    for number in tqdm(range(bins), desc="noise levels"):
        errors = []
        for start in range(0, len(chosen), batch_size):
            indices = chosen[start : start + batch_size]
            pictures = pipe.preprocess(images[indices]).to(device)
            keys = [(seed, Purpose.NOISE_LEVELS, number, index) for index in indices]
            noise, position, _ = draw_noise_time_flip(tuple(pictures.shape[1:]), *keys)
            noise, diffusion_time = noise.to(device), ((number + position) / bins).to(device)
            errors.append(velocity_errors(unet, scheduler, pictures, noise, diffusion_time).cpu())
        errors = torch.cat(errors)
        standard_error = (errors.std() / len(errors) ** 0.5).item()
        limits = {"from": number / bins, "to": (number + 1) / bins}
        rows.append({**limits, "loss": errors.mean().item(), "standard_error": standard_error})
    return rows


def velocity_errors(
    unet: torch.nn.Module,
    scheduler: FlowerDDIMScheduler,
    images: torch.Tensor,
    noise: torch.Tensor,
    diffusion_time: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the velocity √ᾱ·ε - √(1-ᾱ)·x_0 of every image, (B,), in float32.

    Whatever a network predicts, its errors in noise, image and velocity differ only by factors (Salimans and Ho 2022, appendix D).
    That of the velocity is of the same order at all noise levels, so it can compare networks of different kinds.
    A factor below a thousandth, as at the ends of a schedule without an offset, counts as a thousandth.

    Args:
        unet: the network, called with noisy images and timesteps.
        scheduler: adds the noise, and its `prediction_type` says what the network predicts.
        images: standardised images x_0, shape (B, C, H, W).
        noise: standard normal ε in the shape of `images`.
        diffusion_time: u in [0, 1], shape (B,).
    """
    timesteps = scheduler.schedule.timestep(diffusion_time)
    prediction = unet(scheduler.add_noise(images, noise, timesteps), timesteps, return_dict=False)[0].float()
    target = scheduler.get_target(images, noise, timesteps)
    signal_rate, noise_rate = scheduler.schedule.rates(diffusion_time)
    scale = {"epsilon": signal_rate, "sample": noise_rate}.get(scheduler.config.prediction_type, torch.ones(()))
    return ((prediction - target) ** 2).mean((1, 2, 3)) / scale.clamp(min=SIGNAL_RATE_FLOOR) ** 2
