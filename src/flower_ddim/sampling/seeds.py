"""Streams of random numbers, each a function of integers: of the seed of a run, of what it is for, and of the step or picture."""

import math
from enum import IntEnum

import numpy as np
import torch


# Multiples of it, mod 1, lie evenly over [0, 1], and so do any few neighbours among them.
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2  # less one


class Purpose(IntEnum):
    """What a stream is for, the second part of its key: streams of the same seed are thereby apart from each other.

    The numbers are part of what a seed means: to change one changes the course of every training.
    """

    ORDER = 0
    TRAINING = 1
    VALIDATION = 2
    SPLITTING = 3
    NOISE_LEVELS = 4
    TIMES = 5
    CLASS_DROPOUT = 6


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream is a function of its key, such as (seed, purpose, step), and of nothing else."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def draw_noise_time_flip(
    shape: tuple[int, ...], *keys: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws noise of `shape`, a diffusion time in [0, 1) and whether to flip, for every key, each from its key alone.

    A key holds the seed, the step and the position in the global batch. An image therefore meets the same noise in whichever
    process sees it, and after resuming.
    """
    noise, time_and_flip = torch.empty(len(keys), *shape), torch.empty(len(keys), 2)
    for i, key in enumerate(keys):
        generator = seeded_generator(*key)
        torch.randn(shape, generator=generator, out=noise[i])
        torch.rand(2, generator=generator, out=time_and_flip[i])
    return noise, time_and_flip[:, 0], time_and_flip[:, 1] < 0.5
