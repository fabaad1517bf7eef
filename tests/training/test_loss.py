import math

import pytest
import torch
from conftest import make_unet

from flower_ddim import FlowerDDIMScheduler
from flower_ddim.training.loss import ZERO_NOISE_LOSS, diffusion_loss, draw, velocity_errors


KEYS = [(0, 1, 0, position) for position in range(4)]


@pytest.mark.parametrize("loss", ["mae", "mse"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_loss_is_the_error_of_what_is_predicted(prediction_type, loss):
    scheduler = FlowerDDIMScheduler(prediction_type=prediction_type)
    unet = make_unet()
    noise, times, _ = draw((3, 16, 16), *KEYS)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    start, end = math.acos(0.95), math.acos(0.02)
    angles = (start + times * (end - start)).reshape(4, 1, 1, 1)
    signal, noise_rate = angles.cos(), angles.sin()
    target = {"epsilon": noise, "sample": images, "v_prediction": signal * noise - noise_rate * images}[
        prediction_type
    ]
    error = unet(signal * images + noise_rate * noise, 1000 * times - 1).sample - target
    expected = error.abs().mean() if loss == "mae" else error.square().mean()
    measured = diffusion_loss(unet, scheduler, images, noise, times, loss)
    torch.testing.assert_close(measured, expected, rtol=1e-4, atol=0)


def test_loss_is_float32_under_autocast():
    noise, times, _ = draw((3, 16, 16), *KEYS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = diffusion_loss(make_unet(), FlowerDDIMScheduler(), torch.zeros_like(noise), noise, times)
    assert loss.dtype == torch.float32


def test_predicting_no_noise_scores_the_baseline():
    unet = make_unet()
    for tensor in (unet.conv_out.weight, unet.conv_out.bias):
        torch.nn.init.zeros_(tensor)
    noise, times, _ = draw((3, 16, 16), *[(0, i) for i in range(64)])
    loss = diffusion_loss(unet, FlowerDDIMScheduler(), torch.zeros_like(noise), noise, times)
    assert loss.item() == pytest.approx(ZERO_NOISE_LOSS, abs=0.01)


def test_draws_are_a_function_of_their_key_alone():
    noise, times, coins = draw((3, 4, 4), *KEYS)
    for i in (2, 0):
        alone = draw((3, 4, 4), KEYS[i])
        assert torch.equal(alone[0][0], noise[i]) and alone[1][0] == times[i] and alone[2][0] == coins[i]
    assert len({tuple(image.flatten().tolist()) for image in noise}) == 4


def test_draws_are_standard_normal_uniform_and_fair():
    noise, times, coins = draw((3, 4, 4), *[(7, i) for i in range(2000)])
    assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)
    assert times.min() >= 0 and times.max() < 1
    assert times.mean().item() == pytest.approx(0.5, abs=0.03) and times.std().item() == pytest.approx(
        12**-0.5, abs=0.02
    )
    assert coins.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_velocity_errors_stay_finite_where_there_is_no_signal():
    scheduler = FlowerDDIMScheduler(schedule="cosine")
    noise, _, _ = draw((3, 16, 16), *KEYS)
    errors = velocity_errors(make_unet(schedule="cosine"), scheduler, noise, noise, torch.ones(4))
    assert errors.isfinite().all() and errors.max() < 1e7
