import pytest
import torch

from flower_ddim.sampling.seeds import Purpose, draw_noise_time_flip, seeded_generator


def numbers(*key):
    return tuple(torch.rand(4, generator=seeded_generator(*key)).tolist())


def test_streams_differ_by_any_part_of_their_key():
    assert len({numbers(*key) for key in [(0, 1), (1, 0), (0, 0), (0, 1)]}) == 3


def test_streams_of_one_seed_are_apart_and_what_they_were():
    """A checkpoint of an earlier version goes on with the pictures, noise and times that it would have met there."""
    assert len({numbers(0, purpose, 3) for purpose in Purpose}) == len(Purpose)
    assert numbers(7, Purpose.TRAINING, 3, 1) == numbers(7, 1, 3, 1)
    assert (
        seeded_generator(7, Purpose.ORDER, 0).initial_seed()
        == seeded_generator(7, 0, 0).initial_seed()
        == 8460147692890830636
    )


def test_draws_are_a_function_of_their_key_alone():
    keys = [(0, 1, 0, position) for position in range(4)]
    noise, times, flips = draw_noise_time_flip((3, 4, 4), *keys)
    for i in (2, 0):
        alone = draw_noise_time_flip((3, 4, 4), keys[i])
        assert torch.equal(alone[0][0], noise[i]) and alone[1][0] == times[i] and alone[2][0] == flips[i]
    assert len({tuple(image.flatten().tolist()) for image in noise}) == 4


def test_draws_are_standard_normal_uniform_and_fair():
    noise, times, flips = draw_noise_time_flip((3, 4, 4), *[(7, i) for i in range(2000)])
    assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)
    assert times.min() >= 0 and times.max() < 1
    assert times.mean().item() == pytest.approx(0.5, abs=0.03) and times.std().item() == pytest.approx(
        12**-0.5, abs=0.02
    )
    assert flips.float().mean().item() == pytest.approx(0.5, abs=0.05)
