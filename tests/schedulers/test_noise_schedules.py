import math

import pytest
import torch

from flower_ddim.schedulers.noise_schedules import SCHEDULES, DiffusionSchedule, cosine, linear, offset_cosine


TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_powers_add_up_to_one_and_signal_falls(name):
    signal, noise = DiffusionSchedule(name).rates(TIMES)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones_like(TIMES))
    assert (signal.diff() < 0).all() and (noise.diff() > 0).all()


def test_offset_cosine_runs_between_its_signal_rates_at_even_angles():
    signal, noise = offset_cosine(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    start, end = math.acos(0.95), math.acos(0.02)
    torch.testing.assert_close(signal, torch.tensor([0.95, math.cos((start + end) / 2), 0.02], dtype=torch.float64))
    assert noise[0].item() ** 2 == pytest.approx(0.0975)


def test_cosine_is_a_quarter_circle():
    signal, noise = cosine(torch.tensor([0.0, 1 / 3, 1.0], dtype=torch.float64))
    torch.testing.assert_close(signal, torch.tensor([1.0, math.cos(math.pi / 6), 0.0], dtype=torch.float64))
    torch.testing.assert_close(noise, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))


def test_linear_is_the_cumulative_product_on_the_grid_and_interpolates_its_logarithm_between():
    betas = [0.0001 + (0.02 - 0.0001) * i / 999 for i in range(1000)]
    log_alphas_cumprod = [0.0]
    for beta in betas:
        log_alphas_cumprod.append(log_alphas_cumprod[-1] + math.log(1 - beta))
    grid = [0, 1, 2, 500, 999, 1000]
    signal, _ = linear(torch.tensor(grid, dtype=torch.float64) / 1000)
    assert (2 * signal.log()).tolist() == pytest.approx([log_alphas_cumprod[t] for t in grid], rel=1e-9)
    between, _ = linear(torch.tensor([0.3453], dtype=torch.float64))
    expected = 0.7 * log_alphas_cumprod[345] + 0.3 * log_alphas_cumprod[346]
    assert 2 * between.log().item() == pytest.approx(expected, rel=1e-9)


def test_linear_does_not_depend_on_the_batch_it_is_asked_for():
    together, _ = linear(TIMES)
    for time, expected in zip(TIMES, together, strict=True):
        assert linear(time)[0] == expected


@pytest.mark.parametrize("name", SCHEDULES)
def test_float32_is_as_good_as_it_can_be(name):
    schedule = DiffusionSchedule(name)
    for single, double in zip(schedule.rates(TIMES.float()), schedule.rates(TIMES), strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_betas_multiply_to_the_table_of_signal_powers(name):
    schedule = DiffusionSchedule(name)
    table = schedule.alphas_cumprod()
    torch.testing.assert_close((1 - schedule.betas()).cumprod(0), table)
    signal, _ = schedule.rates(torch.tensor(0.25, dtype=torch.float64))
    assert table[249].item() == pytest.approx(signal.item() ** 2)
    assert table.min() >= 1e-6  # also where `cosine` has no signal left


@pytest.mark.parametrize(
    "timestep", [torch.tensor(499), torch.tensor(499.0), torch.tensor(499, dtype=torch.int32)], ids=str
)
def test_timesteps_of_any_dtype(timestep):
    assert DiffusionSchedule().diffusion_time(timestep).item() == pytest.approx(0.5, abs=1e-7)


def test_timesteps_and_diffusion_times_are_inverse_and_half_precision_stays_in_range():
    schedule = DiffusionSchedule()
    torch.testing.assert_close(schedule.diffusion_time(schedule.timestep(TIMES)), TIMES)
    assert schedule.diffusion_time(torch.tensor(-1.0)) == 0
    assert schedule.diffusion_time(torch.tensor(999.0, dtype=torch.bfloat16)) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "quadratic"}, "linear, cosine, offset_cosine"),
        ({"min_signal_rate": 0.0}, "min_signal_rate"),
        ({"min_signal_rate": 0.95}, "min_signal_rate < max_signal_rate"),
        ({"max_signal_rate": 1.01}, "max_signal_rate <= 1"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
    ],
)
def test_impossible_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffusionSchedule(**arguments)
