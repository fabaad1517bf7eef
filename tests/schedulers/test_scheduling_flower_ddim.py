import math

import pytest
import torch
from conftest import make_stock_unet
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch.utils._python_dispatch import TorchDispatchMode

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


class GaussianDenoiser:
    """The exact noise prediction for images whose every pixel is N(mean, std²): x̂_0 is a Bayesian posterior mean."""

    def __init__(self, scheduler, mean=0.5, std=0.3):
        self.scheduler, self.mean, self.std = scheduler, mean, std

    def rates(self, timestep):
        schedule = self.scheduler.schedule
        return schedule.rates(schedule.diffusion_time(torch.as_tensor(timestep, dtype=torch.float64)))

    def __call__(self, sample, timestep):
        signal, noise = self.rates(timestep)
        variance = (signal * self.std) ** 2 + noise**2
        x0 = self.mean + signal * self.std**2 / variance * (sample - signal * self.mean)
        return (sample - signal * x0) / noise


def generate(scheduler, denoiser, sample, num_inference_steps, **kwargs):
    scheduler.set_timesteps(num_inference_steps)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample, **kwargs).prev_sample
    return sample


@pytest.mark.parametrize("n", [*range(1, 51), 61, 999, 1500])
def test_timesteps_run_evenly_from_one_to_the_last_before_zero(n):
    scheduler = FlowerDDIMScheduler()
    scheduler.set_timesteps(n)
    assert scheduler.timesteps.dtype == torch.float32 and len(scheduler.timesteps) == n
    expected = [1000 * (n - i) / n - 1 for i in range(n)]
    torch.testing.assert_close(scheduler.timesteps, torch.tensor(expected))


@pytest.mark.parametrize("n", [*range(1, 51), 61, 999, 1500])
def test_every_step_leads_to_the_timestep_that_is_visited_next(n):
    """Images that are all zero are noise only, so a step must multiply its sample by the ratio of the noise rates."""
    scheduler = FlowerDDIMScheduler()
    scheduler.set_timesteps(n)
    sample = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    noise_rates = [math.sin(math.acos(0.95) + (n - i) / n * (math.acos(0.02) - math.acos(0.95))) for i in range(n)]
    for timestep, noise_rate, next_rate in zip(scheduler.timesteps, noise_rates, [*noise_rates[1:], 0], strict=True):
        output = scheduler.step(sample / noise_rate, timestep, sample)
        assert output.pred_original_sample.abs().max() < 1e-4
        assert output.prev_sample.item() == pytest.approx(sample.item() / noise_rate * next_rate, abs=1e-5)
        sample = output.prev_sample
    assert sample.abs().max() < 1e-4


@pytest.mark.parametrize("schedule", ["linear", "cosine", "offset_cosine"])
def test_exact_denoiser_carries_noise_to_the_data_distribution(schedule):
    """DDIM maps quantile to quantile: for Gaussian data the limit of many steps is known in closed form."""
    scheduler = FlowerDDIMScheduler(schedule=schedule)
    denoiser = GaussianDenoiser(scheduler)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    signal, noise = denoiser.rates(999)
    start = signal * denoiser.mean + torch.sqrt((signal * denoiser.std) ** 2 + noise**2) * z
    end_signal, end_noise = denoiser.rates(-1)
    # The last step returns the posterior mean at u = 1/N, which tends to the one at u = 0.
    end_scale = end_signal * denoiser.std**2 / torch.sqrt((end_signal * denoiser.std) ** 2 + end_noise**2)
    errors = [
        (generate(scheduler, denoiser, start, n) - (denoiser.mean + end_scale * z)).abs().max().item()
        for n in (10, 100, 1000)
    ]
    assert errors[2] < errors[1] / 5 < errors[0] / 25 and errors[2] < 4e-3  # of first order in the number of steps


def test_eta_one_has_the_posterior_variance_of_ddpm():
    """σ² = (1-ᾱ')/(1-ᾱ) · β, β = 1-ᾱ/ᾱ' (Ho et al. 2020, equation 7), between every two timesteps."""
    scheduler = FlowerDDIMScheduler()
    scheduler.set_timesteps(10)
    zeros = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    rates = [scheduler.schedule.rates(torch.tensor((10 - i) / 10, dtype=torch.float64)) for i in range(10)]
    for i in range(9):
        alpha, next_alpha = rates[i][0] ** 2, rates[i + 1][0] ** 2
        variance = (1 - next_alpha) / (1 - alpha) * (1 - alpha / next_alpha)
        timestep = scheduler.timesteps[i]
        step = scheduler.step(zeros, timestep, zeros, eta=1.0, variance_noise=torch.ones_like(zeros)).prev_sample
        assert step.mean().item() == pytest.approx(variance.sqrt().item(), rel=1e-5)
        # With a unit prediction the deterministic part is what is left of the variance.
        step = scheduler.step(zeros + 1, timestep, zeros + rates[i][1], eta=1.0, variance_noise=zeros).prev_sample
        assert step.mean().item() == pytest.approx((1 - next_alpha - variance).sqrt().item(), abs=1e-5)


def test_eta_one_samples_the_data_distribution():
    scheduler = FlowerDDIMScheduler(schedule="cosine")
    denoiser = GaussianDenoiser(scheduler)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 1, 100, 100, dtype=torch.float64, generator=generator)
    samples = generate(scheduler, denoiser, start, 200, eta=1.0, generator=generator)
    assert samples.mean().item() == pytest.approx(denoiser.mean, abs=0.02)
    assert samples.std().item() == pytest.approx(denoiser.std, abs=0.02)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_prediction_types_agree(prediction_type):
    """Told the truth in any of the three forms, a step finds the same image and the same next sample."""
    scheduler = FlowerDDIMScheduler(prediction_type=prediction_type)
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    scheduler.set_timesteps(7)
    for i in range(6):
        timestep = scheduler.timesteps[i]
        sample = scheduler.add_noise(image, noise, timestep)
        velocity = scheduler.get_velocity(image, noise, timestep)
        truth = {"epsilon": noise, "sample": image, "v_prediction": velocity}[prediction_type]
        output = scheduler.step(truth, timestep, sample)
        torch.testing.assert_close(output.pred_original_sample, image, rtol=0, atol=2e-4)
        expected = scheduler.add_noise(image, noise, scheduler.timesteps[i + 1])
        torch.testing.assert_close(output.prev_sample, expected, rtol=0, atol=2e-4)


def test_clipping_derives_the_noise_anew():
    scheduler = FlowerDDIMScheduler(clip_sample=True, clip_sample_range=1.5)
    scheduler.set_timesteps(4)
    sample, prediction = torch.full((1, 1, 1, 1), 2.0), torch.zeros(1, 1, 1, 1)
    timestep = scheduler.timesteps[1]
    output = scheduler.step(prediction, timestep, sample)
    assert output.pred_original_sample.item() == 1.5
    signal, noise = (r.item() for r in scheduler.schedule.rates(torch.tensor(0.75)))
    next_signal, next_noise = (r.item() for r in scheduler.schedule.rates(torch.tensor(0.5)))
    expected = next_signal * 1.5 + next_noise * (2.0 - signal * 1.5) / noise
    assert output.prev_sample.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("timesteps", [249, 249.0, torch.tensor(249), torch.tensor([249.0, 249.0]), 249.5])
def test_add_noise_and_velocity_at_integer_and_float_timesteps(timesteps):
    scheduler = FlowerDDIMScheduler()
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    time = (float(torch.as_tensor(timesteps).flatten()[0]) + 1) / 1000
    angle = math.acos(0.95) + time * (math.acos(0.02) - math.acos(0.95))
    expected = math.cos(angle) * image + math.sin(angle) * noise
    torch.testing.assert_close(scheduler.add_noise(image, noise, timesteps), expected)
    expected = math.cos(angle) * noise - math.sin(angle) * image
    torch.testing.assert_close(scheduler.get_velocity(image, noise, timesteps), expected)


def test_add_noise_has_a_timestep_for_every_image():
    scheduler = FlowerDDIMScheduler()
    image, noise = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    noisy = scheduler.add_noise(image, noise, torch.tensor([-1.0, 999.0]))
    assert noisy[:, 0, 0, 0].tolist() == pytest.approx([0.95, 0.02], abs=1e-6)


def test_half_precision_samples_are_stepped_in_float32():
    scheduler = FlowerDDIMScheduler()
    scheduler.set_timesteps(20)
    sample, output = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    step = scheduler.step(output, scheduler.timesteps[0], sample).prev_sample
    exact = scheduler.step(output.float(), scheduler.timesteps[0], sample.float()).prev_sample
    assert step.dtype == torch.bfloat16
    assert torch.equal(step, exact.bfloat16())


@pytest.mark.parametrize(
    "stock, bound",
    [
        # Largest root mean square distance from 100 DDIM steps, for data whose standard deviation is 0.3.
        (DDIMScheduler, 0.05),
        (EulerDiscreteScheduler, 0.05),
        (DPMSolverMultistepScheduler, 0.03),
        (UniPCMultistepScheduler, 0.03),
        (DDPMScheduler, None),
    ],
)
def test_other_solvers_reach_the_same_images(stock, bound):
    """With an exact denoiser 20 steps of every deterministic solver come close to DDIM's limit; DDPM has its distribution."""
    ours = FlowerDDIMScheduler()
    denoiser = GaussianDenoiser(ours)
    start = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = generate(ours, denoiser, start, 100)
    scheduler = stock.from_config(ours.config)
    scheduler.set_timesteps(20)
    sample = start * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(1)
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(sample, timestep)
        kwargs = {"generator": generator} if stock is DDPMScheduler else {}
        sample = scheduler.step(denoiser(model_input, timestep), timestep, sample, **kwargs).prev_sample
    if bound is not None:
        assert (sample - expected).square().mean().sqrt() < bound
    else:
        assert sample.mean().item() == pytest.approx(expected.mean().item(), abs=0.02)
        assert sample.std().item() == pytest.approx(expected.std().item(), abs=0.05)


def test_our_scheduler_drives_a_stock_unet():
    torch.manual_seed(0)
    unet = make_stock_unet()
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    images = pipe(batch_size=2, num_inference_steps=7, output_type="pt", generator=torch.manual_seed(0)).images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all() and images.std() > 0


def test_what_stock_schedulers_answer_to():
    scheduler = FlowerDDIMScheduler()
    sample = torch.ones(1)
    assert len(scheduler) == 1000 and scheduler.order == 1 and scheduler.init_noise_sigma == 1
    assert scheduler.scale_model_input(sample, 5) is sample
    torch.testing.assert_close((1 - scheduler.betas).cumprod(0), scheduler.alphas_cumprod)
    assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0.02**2)
    assert len(scheduler.timesteps) == 1000


@pytest.mark.parametrize("n", [0, -1, 2.0, "20", True, None])
def test_number_of_steps_must_be_a_positive_integer(n):
    with pytest.raises(ValueError, match="num_inference_steps"):
        FlowerDDIMScheduler().set_timesteps(n)


def test_misuse_of_step_is_explained():
    scheduler, sample = FlowerDDIMScheduler(), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(sample, 999, sample)
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.invert_step(sample, 999, sample, sample)
    scheduler.set_timesteps(2)
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match="eta"):
            scheduler.step(sample, 999, sample, eta=eta)
    with pytest.raises(ValueError, match="not both"):
        scheduler.step(sample, 999, sample, 1.0, generator=torch.Generator(), variance_noise=sample)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="epsilon, sample, v_prediction"):
        FlowerDDIMScheduler(prediction_type="noise")
    with pytest.raises(ValueError, match="offset_cosine"):
        FlowerDDIMScheduler(schedule="squaredcos_cap_v2")


class NoWaiting(TorchDispatchMode):
    """Fails where a number is fetched from a tensor: on a GPU Python would wait there for all that is under way."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number was fetched from the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_no_step_waits_for_the_device(noise, eta):
    scheduler = FlowerDDIMScheduler()
    scheduler.set_timesteps(5)
    timesteps = list(scheduler.timesteps)
    with NoWaiting():
        for timestep in timesteps:
            sample = scheduler.step(noise, timestep, noise, eta=eta).prev_sample
            scheduler.invert_step(noise, timestep, noise, noise)
        with pytest.raises(AssertionError, match="fetched"):
            sample[0, 0, 0, 0].item()
