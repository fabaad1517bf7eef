"""Exponential moving average of a network: of its parameters and of its BatchNorm statistics."""

import copy

import torch
import torch.nn as nn
from accelerate import Accelerator


class ExponentialMovingAverage:
    """Keeps `averaged`, a network whose weights follow those of another: w̄ ← d·w̄ + (1 - d)·w after every step.

    All floating point weights are averaged, BatchNorm's running statistics included: the averaged network needs statistics
    that fit its averaged weights. Integer buffers (`num_batches_tracked`) are copied.

    Args:
        model: the network to follow; the average starts as a copy of it.
        max_decay: d in [0, 1), the decay of the average.
        power, inv_gamma: as in diffusers' `EMAModel`: where `power` p is given, the n-th update (from 1) has the decay
            1 - (1 + n/inv_gamma)^-p until that reaches `max_decay`. A constant 0.999 remembers the untrained network for a few
            thousand steps, which short runs never outlive; with p = 1 and inv_gamma = 9 the average covers about the last ninth
            of the run so far.

    Raises:
        ValueError: for a decay outside [0, 1), or a `power` or `inv_gamma` that is not greater than 0.
    """

    def __init__(self, model: nn.Module, max_decay: float = 0.999, power: float | None = None, inv_gamma: float = 1.0):
        if not 0 <= max_decay < 1:
            raise ValueError(f"`ema_max_decay` is {max_decay}, but must lie in [0, 1).")
        if inv_gamma <= 0 or (power is not None and power <= 0):
            raise ValueError(f"`ema_power` = {power} and `ema_inv_gamma` = {inv_gamma} must be greater than 0.")
        self.averaged = copy.deepcopy(model).requires_grad_(False).eval()
        self.max_decay = max_decay
        self.power = power
        self.inv_gamma = inv_gamma
        self.num_updates = 0

    def restart(self, model: nn.Module):
        """Begins anew with a copy of the weights of `model`, and with the warm-up."""
        self.averaged.load_state_dict(model.state_dict())
        self.num_updates = 0

    def decay(self) -> float:
        """Decay of the next update."""
        if self.power is None:
            return self.max_decay
        return min(self.max_decay, 1 - (1 + (self.num_updates + 1) / self.inv_gamma) ** -self.power)

    @torch.no_grad()
    def update(self, model: nn.Module):
        """Moves the average towards the weights of `model`; a ValueError if their names differ."""
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


def share_statistics(unet: nn.Module, accelerator: Accelerator):
    """Averages BatchNorm's running statistics over the processes: each has seen its own share of the batch only.

    All processes, and so all their moving averages, hold the same statistics afterwards.
    """
    buffers = [buffer for buffer in unet.buffers() if buffer.is_floating_point()]
    if accelerator.num_processes == 1 or not buffers:
        return
    mean = accelerator.reduce(torch.cat([buffer.flatten() for buffer in buffers]), "mean")
    for buffer, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
