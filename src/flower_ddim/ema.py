"""Exponential moving average of a network: of its parameters and of its BatchNorm statistics."""

import copy

import torch
import torch.nn as nn


class ExponentialMovingAverage:
    """Keeps `averaged`, a network whose weights follow those of another: w̄ ← d·w̄ + (1 - d)·w after every step.

    All floating point weights are averaged, BatchNorm's running statistics included: the averaged network needs statistics
    that fit its averaged weights. Integer buffers (`num_batches_tracked`) are copied.

    Args:
        model: the network to follow; the average starts as a copy of it.
        max_decay: d in [0, 1), the decay of the average.
        warmup: whether to start with the smaller decay min(max_decay, (1 + n) / (10 + n)) at the n-th update. A constant decay
            of 0.999 remembers the untrained network for a few thousand steps, which short runs never outlive.
    """

    def __init__(self, model: nn.Module, max_decay: float = 0.999, warmup: bool = False):
        if not 0 <= max_decay < 1:
            raise ValueError(f"`max_decay` is {max_decay}, but must lie in [0, 1).")
        self.averaged = copy.deepcopy(model).requires_grad_(False).eval()
        self.max_decay = max_decay
        self.warmup = warmup
        self.num_updates = 0

    def decay(self) -> float:
        """Decay of the next update."""
        n = self.num_updates + 1
        return min(self.max_decay, (1 + n) / (10 + n)) if self.warmup else self.max_decay

    @torch.no_grad()
    def update(self, model: nn.Module):
        """Moves the average towards the weights of `model`, which must have the same names."""
        averages, weights = self.averaged.state_dict(), model.state_dict()
        if averages.keys() != weights.keys():
            differing = ", ".join(sorted(averages.keys() ^ weights.keys()))
            raise ValueError(f"The averaged network and the followed one differ in their weights: {differing}.")
        floating = [name for name, average in averages.items() if average.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in floating], [weights[name] for name in floating], 1 - self.decay()
        )
        for name in averages.keys() - set(floating):
            averages[name].copy_(weights[name])
        self.num_updates += 1
