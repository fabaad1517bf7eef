"""Diffusion schedules: how much signal and how much noise there is at every diffusion time u, from 0 (data) to 1 (noise).

A schedule maps u to the *signal rate* √ᾱ and the *noise rate* √(1-ᾱ), so that x_u = signal_rate · x_0 + noise_rate · ε (Ho et
al. 2020, equation 4). The squares of the rates are powers (variances) and add up to one.
"""

import math
from dataclasses import dataclass

import torch


SCHEDULES = ("linear", "cosine", "offset_cosine")
SIGNAL_RATE_FLOOR = 1e-3  # whoever divides by a signal rate uses at least this: `cosine` ends in no signal at all
MAX_TIMESTEPS = 100_000  # far more than anybody needs; a damaged configuration must not fill the memory with a table


def linear(diffusion_time: torch.Tensor, num_train_timesteps: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear β schedule (Ho et al. 2020, section 4): β_t rises from 0.0001 at t = 1 to 0.02 at t = `num_train_timesteps` = T.

    ᾱ is the cumulative product of 1 - β_t, placed at u = t/T with ᾱ(0) = 1; log ᾱ is interpolated between these points.
    """
    betas = torch.linspace(0.0001, 0.02, num_train_timesteps, dtype=torch.float64, device="cpu")
    log_alphas_cumprod = torch.nn.functional.pad(torch.log1p(-betas).cumsum(0), (1, 0))
    log_alphas_cumprod = log_alphas_cumprod.to(diffusion_time.device, diffusion_time.dtype)
    position = diffusion_time * num_train_timesteps
    lower = position.floor().clamp(0, num_train_timesteps - 1)
    index = lower.long()
    log_alpha_cumprod = torch.lerp(log_alphas_cumprod[index], log_alphas_cumprod[index + 1], position - lower)
    return torch.exp(0.5 * log_alpha_cumprod), torch.sqrt(-torch.expm1(log_alpha_cumprod))


def cosine(diffusion_time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine schedule (Nichol & Dhariwal 2021, section 3.2, without its offset): the rates walk a quarter circle."""
    angle = diffusion_time * (math.pi / 2)
    return torch.cos(angle), torch.sin(angle)


def offset_cosine(
    diffusion_time: torch.Tensor, min_signal_rate: float = 0.02, max_signal_rate: float = 0.95
) -> tuple[torch.Tensor, torch.Tensor]:
    """From `max_signal_rate` at u = 0 to `min_signal_rate` at u = 1, the angle linear in u (DDIM example of Keras, Béres 2022)."""
    start_angle, end_angle = math.acos(max_signal_rate), math.acos(min_signal_rate)
    angle = start_angle + diffusion_time * (end_angle - start_angle)
    return torch.cos(angle), torch.sin(angle)


@dataclass(frozen=True)
class DiffusionSchedule:
    """A schedule with its constants; the network and the scheduler each build the same one from their configuration.

    Args:
        name: one of `"linear"`, `"cosine"` and `"offset_cosine"`.
        min_signal_rate, max_signal_rate: the signal rates at u = 1 and u = 0 of `"offset_cosine"`.
        num_train_timesteps: the number T of integer timesteps; timestep t stands for u = (t + 1) / T.

    Raises:
        ValueError: for an unknown name, rates outside 0 < min < max ≤ 1, or fewer than one timestep.
    """

    name: str = "offset_cosine"
    min_signal_rate: float = 0.02
    max_signal_rate: float = 0.95
    num_train_timesteps: int = 1000

    def __post_init__(self):
        low, high, timesteps = self.min_signal_rate, self.max_signal_rate, self.num_train_timesteps
        if self.name not in SCHEDULES:
            raise ValueError(f"`schedule` is {self.name!r}, but must be one of {', '.join(SCHEDULES)}.")
        if not 0 < low < high <= 1:
            given = f"`min_signal_rate` = {low} and `max_signal_rate` = {high}"
            raise ValueError(f"{given} must satisfy 0 < min_signal_rate < max_signal_rate <= 1.")
        if type(timesteps) is not int or not 1 <= timesteps <= MAX_TIMESTEPS:
            given = f"`num_train_timesteps` is {timesteps!r}"
            raise ValueError(f"{given}, but must be an integer >= 1, and <= {MAX_TIMESTEPS:,}.")

    def diffusion_time(self, timestep: torch.Tensor) -> torch.Tensor:
        """Diffusion time u = (t + 1) / T of timesteps t in [-1, T - 1], integer or fractional, of any dtype; float32 or better."""
        # Half precision cannot hold 999 (bfloat16 rounds it to 1000), so u is clamped.
        dtype = torch.float64 if timestep.dtype == torch.float64 else torch.float32
        return ((timestep.to(dtype) + 1) / self.num_train_timesteps).clamp(0, 1)

    def timestep(self, diffusion_time: torch.Tensor) -> torch.Tensor:
        """The timestep t = T·u - 1 of diffusion times u in [0, 1]: the inverse of [`diffusion_time`]."""
        return diffusion_time * self.num_train_timesteps - 1

    def rates(self, diffusion_time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Signal and noise rates at diffusion times u in [0, 1], in the shape and dtype of the (floating point) argument."""
        if self.name == "linear":
            return linear(diffusion_time, self.num_train_timesteps)
        if self.name == "cosine":
            return cosine(diffusion_time)
        return offset_cosine(diffusion_time, self.min_signal_rate, self.max_signal_rate)

    def alphas_cumprod(self) -> torch.Tensor:
        """The table ᾱ((k + 1) / T) of the integer timesteps k = 0 … T-1 for the stock schedulers, float64, floored above zero."""
        time = torch.arange(1, self.num_train_timesteps + 1, dtype=torch.float64) / self.num_train_timesteps
        return self.rates(time)[0].clamp(min=SIGNAL_RATE_FLOOR) ** 2

    def betas(self) -> torch.Tensor:
        """The β_k whose cumulative product of 1 - β_k is [`alphas_cumprod`]: `trained_betas` of the stock schedulers."""
        alphas_cumprod = self.alphas_cumprod()
        return 1 - alphas_cumprod / torch.nn.functional.pad(alphas_cumprod[:-1], (1, 0), value=1.0)
