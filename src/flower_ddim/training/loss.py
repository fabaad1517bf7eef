"""The training loss, and the noise and times that it is taken at."""

import math

import torch

from ..sampling.seeds import seeded_generator
from ..schedulers.noise_schedules import SIGNAL_RATE_FLOOR
from ..schedulers.scheduling_flower_ddim import FlowerDDIMScheduler


# Mean absolute error of predicting zero where a standard normal is asked for: E|ε| = √(2/π).
ZERO_NOISE_LOSS = math.sqrt(2 / math.pi)


def diffusion_loss(
    unet: torch.nn.Module,
    scheduler: FlowerDDIMScheduler,
    images: torch.Tensor,
    noise: torch.Tensor,
    diffusion_time: torch.Tensor,
    loss: str = "mae",
    **unet_options,
) -> torch.Tensor:
    """Error of the network's prediction for noisy images (Ho et al. 2020, equation 14, with |·| for (·)² by default).

    Args:
        unet: the network, called with noisy images and timesteps.
        scheduler: adds the noise and says what is predicted (`prediction_type`).
        images: standardised images x_0, shape (B, C, H, W).
        noise: standard normal ε in the shape of `images`; where those are average-pooled, so is it.
        diffusion_time: u in [0, 1], shape (B,).
        loss: `"mae"`, mean absolute error, or `"mse"`, mean squared error.
        unet_options: what else the network is called with.

    Returns:
        The mean over batch and pixels, a scalar; computed in float32 whatever the network computes in.
    """
    prediction, target = _prediction_and_target(unet, scheduler, images, noise, diffusion_time, **unet_options)
    error = torch.nn.functional.l1_loss if loss == "mae" else torch.nn.functional.mse_loss
    return error(prediction, target)


def velocity_errors(
    unet: torch.nn.Module,
    scheduler: FlowerDDIMScheduler,
    images: torch.Tensor,
    noise: torch.Tensor,
    diffusion_time: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the velocity √ᾱ·ε - √(1-ᾱ)·x_0 of every image, (B,); arguments as in [`diffusion_loss`].

    Whatever the network predicts, its errors in noise, image and velocity differ by factors alone (Salimans and Ho 2022, appendix
    D), and that of the velocity is of the same order at all noise levels: networks of different kinds can be compared.
    A factor below a thousandth, as at the ends of a schedule without an offset, is taken for that.
    """
    prediction, target = _prediction_and_target(unet, scheduler, images, noise, diffusion_time)
    signal_rate, noise_rate = scheduler.schedule.rates(diffusion_time)
    scale = {"epsilon": signal_rate, "sample": noise_rate}.get(scheduler.config.prediction_type, torch.ones(()))
    return ((prediction - target) ** 2).mean((1, 2, 3)) / scale.clamp(min=SIGNAL_RATE_FLOOR) ** 2


def _prediction_and_target(
    unet, scheduler, images, noise, diffusion_time, **unet_options
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network predicts for noisy images, in float32, and what it should."""
    timesteps = scheduler.schedule.timestep(diffusion_time)
    noisy_images = scheduler.add_noise(images, noise, timesteps)
    prediction = unet(noisy_images, timesteps, return_dict=False, **unet_options)[0].float()
    if scheduler.config.prediction_type == "epsilon":
        return prediction, noise
    if scheduler.config.prediction_type == "sample":
        return prediction, images
    return prediction, scheduler.get_velocity(images, noise, timesteps)


def draw(shape: tuple[int, ...], *keys: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise of `shape`, a diffusion time in [0, 1) and a coin for every key, each a function of its key alone.

    A key is made of the seed, the step and the position in the global batch, so an image meets the same noise whichever
    process sees it, and after resuming.
    """
    noise, time_and_coin = torch.empty(len(keys), *shape), torch.empty(len(keys), 2)
    for i, key in enumerate(keys):
        generator = seeded_generator(*key)
        torch.randn(shape, generator=generator, out=noise[i])
        torch.rand(2, generator=generator, out=time_and_coin[i])
    return noise, time_and_coin[:, 0], time_and_coin[:, 1] < 0.5
