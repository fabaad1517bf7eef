import math

import pytest
import torch
from conftest import make_unet

from flower_ddim import FlowerDDIMScheduler
from flower_ddim.sampling.seeds import draw_noise_time_flip
from flower_ddim.training.loss import ZERO_NOISE_LOSS, diffusion_loss


KEYS = [(0, 1, 0, position) for position in range(4)]


@pytest.mark.parametrize("loss", ["mae", "mse"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_loss_is_the_error_of_what_is_predicted(prediction_type, loss):
    scheduler = FlowerDDIMScheduler(prediction_type=prediction_type)
    unet = make_unet()
    noise, times, _ = draw_noise_time_flip((3, 16, 16), *KEYS)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    start, end = math.acos(0.95), math.acos(0.02)
    angles = (start + times * (end - start)).reshape(4, 1, 1, 1)
    signal, noise_rate = angles.cos(), angles.sin()
    target = {"epsilon": noise, "sample": images, "v_prediction": signal * noise - noise_rate * images}[
        prediction_type
    ]
    error = unet(signal * images + noise_rate * noise, 1000 * times - 1).sample - target
    expected = error.abs().mean() if loss == "mae" else error.square().mean()
    measured = diffusion_loss(unet, scheduler, images, noise, times, loss=loss)
    torch.testing.assert_close(measured, expected, rtol=1e-4, atol=0)


def test_loss_is_float32_under_autocast():
    noise, times, _ = draw_noise_time_flip((3, 16, 16), *KEYS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = diffusion_loss(make_unet(), FlowerDDIMScheduler(), torch.zeros_like(noise), noise, times)
    assert loss.dtype == torch.float32


def test_predicting_no_noise_scores_the_baseline():
    unet = make_unet()
    for tensor in (unet.conv_out.weight, unet.conv_out.bias):
        torch.nn.init.zeros_(tensor)
    noise, times, _ = draw_noise_time_flip((3, 16, 16), *[(0, i) for i in range(64)])
    loss = diffusion_loss(unet, FlowerDDIMScheduler(), torch.zeros_like(noise), noise, times)
    assert loss.item() == pytest.approx(ZERO_NOISE_LOSS, abs=0.01)
