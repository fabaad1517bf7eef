import torch

from flower_ddim.sampling.seeds import Purpose, seeded_generator


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
