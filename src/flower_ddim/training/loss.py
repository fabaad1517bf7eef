"""The training loss."""

import math

import torch

from ..schedulers.scheduling_flower_ddim import FlowerDDIMScheduler
from .messages import main_process_logger


logger = main_process_logger(__name__)

# Mean absolute error of predicting zero where the target is standard normal: E|ε| = √(2/π).
ZERO_NOISE_LOSS = math.sqrt(2 / math.pi)


def diffusion_loss(
    unet: torch.nn.Module,
    scheduler: FlowerDDIMScheduler,
    images: torch.Tensor,
    noise: torch.Tensor,
    diffusion_time: torch.Tensor,
    class_labels: torch.Tensor | None = None,
    loss: str = "mae",
) -> torch.Tensor:
    """Error of the network's prediction for noisy images (Ho et al. 2020, equation 14, with |·| for (·)² by default).

    Args:
        unet: the network, called with noisy images and timesteps.
        scheduler: adds the noise and says what is predicted (`prediction_type`).
        images: standardised images x_0, shape (B, C, H, W).
        noise: standard normal ε in the shape of `images`; where those are average-pooled, so is it.
        diffusion_time: u in [0, 1], shape (B,).
        class_labels: what the network is told of the classes, see its `forward`.
        loss: `"mae"`, mean absolute error, or `"mse"`, mean squared error.

    Returns:
        The mean over batch and pixels, a scalar; computed in float32 whatever the network computes in.
    """
    timesteps = scheduler.schedule.timestep(diffusion_time)
    noisy_images = scheduler.add_noise(images, noise, timesteps)
    prediction = unet(noisy_images, timesteps, class_labels, return_dict=False)[0].float()
    target = scheduler.get_target(images, noise, timesteps)
    return prediction_error(prediction, target, loss)


def prediction_error(prediction: torch.Tensor, target: torch.Tensor, loss: str) -> torch.Tensor:
    """Mean absolute (`"mae"`) or mean squared (`"mse"`) error over batch and pixels, a scalar."""
    error = torch.nn.functional.l1_loss if loss == "mae" else torch.nn.functional.mse_loss
    return error(prediction, target)


def warn_of_zero_noise(loss: float, finest_level: int):
    """Warns where the mean absolute error of the noise is that of predicting none, though pooling has weakened it."""
    if loss > 0.97 * ZERO_NOISE_LOSS / 2**finest_level:
        logger.warning(f"The loss {loss:.3f} is still that of predicting no noise: try another `learning_rate`.")
