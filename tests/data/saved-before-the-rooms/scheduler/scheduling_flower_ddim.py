"""DDIM sampling (Song et al. 2020) over continuous diffusion time, with the interface of diffusers' schedulers."""

import numbers
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, DDPMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor



# From model_files.py.
"""What is read of a model folder: JSON objects and safetensors, and no pickles."""

import json
from pathlib import Path


PICKLE_REMEDY = (
    "Loading a pickle can run any code, so only safetensors are read: if you trust the file, convert it with "
    '`safetensors.torch.save_file(torch.load("diffusion_pytorch_model.bin", weights_only=True), '
    '"diffusion_pytorch_model.safetensors")`.'
)


def read_json_object(file) -> dict:
    """Reads a configuration file.

    diffusers takes other JSON for the name of a model, which it goes and asks the Hub for.

    Raises:
        ValueError: if the file holds anything but a JSON object; a `json.JSONDecodeError` if it is not JSON.
    """
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply to be a configuration: download or save it again.") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{file} holds a {type(value).__name__}, but must hold a JSON object: download or save it again."
        )
    return value


def ask_for_safetensors(kwargs: dict):
    """Sets `use_safetensors` among the arguments of a `from_pretrained`; raises a ValueError where that says no."""
    if kwargs.get("use_safetensors") is False:
        raise ValueError(f"`use_safetensors=False` would read pickled weights. {PICKLE_REMEDY}")
    kwargs["use_safetensors"] = True


def pickle_hint(folder) -> str:
    """What to add to a message that there are no weights: the way to convert what lies in the folder or one below, if anything."""
    pickles = sorted(str(file) for pattern in ("*.bin", "*/*.bin") for file in Path(folder).glob(pattern))
    return f" There is {', '.join(pickles)}, though. {PICKLE_REMEDY}" if pickles else ""


# From schedules.py.
"""Diffusion schedules: how much signal and how much noise there is at every diffusion time.

The *diffusion time* u runs from 0 (data) to 1 (noise). A schedule maps it to the *signal rate* √ᾱ and the *noise rate*
√(1-ᾱ), so that x_u = signal_rate · x_0 + noise_rate · ε (Ho et al. 2020, equation 4). The squares of the rates are powers
(variances) and add up to one.
"""

import math
from dataclasses import dataclass

import torch


LINEAR_BETA_START, LINEAR_BETA_END = 0.0001, 0.02

# Whatever divides by a signal rate uses at least this: pure `cosine` ends in no signal at all.
SIGNAL_RATE_FLOOR = 1e-3


def linear(diffusion_time: torch.Tensor, num_train_timesteps: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear β schedule (Ho et al. 2020, section 4): β_t rises from 0.0001 at t = 1 to 0.02 at t = `num_train_timesteps`.

    ᾱ is the cumulative product of 1 - β_t, placed at u = t / `num_train_timesteps` with ᾱ(0) = 1; between these grid points
    log ᾱ is interpolated. Arguments, result and dtype are those of [`DiffusionSchedule.rates`].
    """
    betas = torch.linspace(LINEAR_BETA_START, LINEAR_BETA_END, num_train_timesteps, dtype=torch.float64, device="cpu")
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
    """Cosine schedule between two signal rates (the Keras DDIM example): neither end is pure signal or pure noise.

    The signal rate is `max_signal_rate` at u = 0 and `min_signal_rate` at u = 1; the angle between is linear in u.
    """
    start_angle, end_angle = math.acos(max_signal_rate), math.acos(min_signal_rate)
    angle = start_angle + diffusion_time * (end_angle - start_angle)
    return torch.cos(angle), torch.sin(angle)


MAX_TIMESTEPS = 100_000  # of which there are tables; beyond every use

SCHEDULES = ("linear", "cosine", "offset_cosine")


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
        if self.name not in SCHEDULES:
            raise ValueError(f"`schedule` is {self.name!r}, but must be one of {', '.join(SCHEDULES)}.")
        if not 0 < self.min_signal_rate < self.max_signal_rate <= 1:
            raise ValueError(
                f"`min_signal_rate` = {self.min_signal_rate} and `max_signal_rate` = {self.max_signal_rate} must "
                "satisfy 0 < min_signal_rate < max_signal_rate <= 1."
            )
        if type(self.num_train_timesteps) is not int or not 1 <= self.num_train_timesteps <= MAX_TIMESTEPS:
            raise ValueError(
                f"`num_train_timesteps` is {self.num_train_timesteps!r}, but must be an integer >= 1, and <= {MAX_TIMESTEPS:,}."
            )

    def diffusion_time(self, timestep: torch.Tensor) -> torch.Tensor:
        """Diffusion time u = (t + 1) / T of timesteps t in [-1, T - 1], integer or fractional, of any dtype.

        Computed in float32 or better. Half precision cannot hold 999 (bfloat16 rounds it to 1000), so u is clamped to [0, 1].
        """
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
        """The table ᾱ((k + 1) / T) of the integer timesteps k = 0 … T-1, in float64, as the stock schedulers use it.

        Floored so that nobody who divides by its root meets zero.
        """
        time = torch.arange(1, self.num_train_timesteps + 1, dtype=torch.float64) / self.num_train_timesteps
        return self.rates(time)[0].clamp(min=SIGNAL_RATE_FLOOR) ** 2

    def betas(self) -> torch.Tensor:
        """The β_k whose cumulative product of 1 - β_k is [`alphas_cumprod`]: `trained_betas` of the stock schedulers."""
        alphas_cumprod = self.alphas_cumprod()
        return 1 - alphas_cumprod / torch.nn.functional.pad(alphas_cumprod[:-1], (1, 0), value=1.0)


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


@dataclass
class FlowerDDIMSchedulerOutput(BaseOutput):
    """Result of [`FlowerDDIMScheduler.step`].

    Attributes:
        prev_sample: x_{t'} at the next, less noisy timestep; after the last one the predicted image itself.
        pred_original_sample: the image x̂_0 predicted from the current sample.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class FlowerDDIMScheduler(SchedulerMixin, ConfigMixin):
    """Denoising diffusion implicit models (Song et al. 2020), exact for every number of steps.

    N steps visit the diffusion times u = 1, 1 - 1/N, …, 1/N, that is the timesteps T·u - 1, which need not be integers. The
    last step returns the predicted image. `DDIMScheduler`, `DDPMScheduler`, `DPMSolverMultistepScheduler`,
    `UniPCMultistepScheduler` and `EulerDiscreteScheduler` can each be made from this scheduler's configuration:
    `DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`.

    Args:
        num_train_timesteps: number T of integer timesteps.
        schedule, min_signal_rate, max_signal_rate: see [`DiffusionSchedule`]; must be those of the model.
        prediction_type: what the model predicts: the noise (`"epsilon"`), the image (`"sample"`), or the velocity
            signal_rate · ε - noise_rate · x_0 (`"v_prediction"`; Salimans & Ho 2022, appendix D).
        clip_sample: whether to clip the predicted image to ±`clip_sample_range`. The noise is then derived anew from the
            clipped image, without which η = 1 is not DDPM.

    Raises:
        ValueError: for an unknown schedule or prediction type, or impossible signal rates.
    """

    _compatibles = [
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
    ]
    order = 1
    init_noise_sigma = 1.0

    # What makes the stock schedulers compute the same thing. They read these entries from the configuration; here they are
    # consequences of the arguments, not arguments.
    _entries_for_stock_schedulers = {
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
        "final_sigmas_type": "zero",
    }

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "offset_cosine",
        min_signal_rate: float = 0.02,
        max_signal_rate: float = 0.95,
        prediction_type: str = "epsilon",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
    ):
        self.schedule = DiffusionSchedule(schedule, min_signal_rate, max_signal_rate, num_train_timesteps)
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"`prediction_type` is {prediction_type!r}, but must be one of {', '.join(PREDICTION_TYPES)}."
            )
        self.betas = self.schedule.betas().float()
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = self.schedule.alphas_cumprod().float()
        self.final_alpha_cumprod = torch.tensor(1.0)

        # `from_config` of another class drops what is listed as left at its default here and takes that class's default instead.
        # The arguments that the stock schedulers share must not be dropped; ours should be, or they would be warned about.
        names = {"schedule": "name", "min_signal_rate": "min_signal_rate", "max_signal_rate": "max_signal_rate"}
        left_at_default = [
            argument
            for argument, field in names.items()
            if getattr(self.schedule, field) == getattr(DiffusionSchedule, field)
        ]
        self.register_to_config(
            trained_betas=self.schedule.betas().tolist(),
            _use_default_values=left_at_default,
            **self._entries_for_stock_schedulers,
        )

        self.num_inference_steps = None
        self.timesteps = self.schedule.timestep(torch.arange(num_train_timesteps, 0, -1) / num_train_timesteps)
        self._signal_rates = self._noise_rates = None

    @classmethod
    def _dict_from_json_file(cls, json_file):
        return read_json_object(json_file)

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        # Derived entries are derived anew: a table that belongs to other arguments must not survive a change of these.
        derived = ("trained_betas", *cls._entries_for_stock_schedulers)
        own = {name: value for name, value in config_dict.items() if name not in derived}
        if "schedule" not in config_dict and "schedule" not in kwargs:
            own["schedule"] = cls._schedule_of(config_dict)
        return super().extract_init_dict(own, **kwargs)

    @staticmethod
    def _schedule_of(config: dict) -> str:
        """Name of the schedule of a configuration that a stock scheduler has written.

        Raises:
            ValueError: if it is none of ours, which a network trained with it would not do well with.
        """
        names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
        given = {name: config[name] for name in names if config.get(name) is not None}
        if given.keys() <= {"num_train_timesteps"}:
            return DiffusionSchedule.name
        table = DDPMScheduler(**given).alphas_cumprod
        rates = {name: config[name] for name in ("min_signal_rate", "max_signal_rate") if name in config}
        for name in SCHEDULES:
            ours = DiffusionSchedule(name, num_train_timesteps=len(table), **rates).alphas_cumprod()
            if (ours - table).abs().max() < 1e-3:  # the table is a cumulative product in float32
                return name
        stated = given.get("beta_schedule", "as `trained_betas` say")
        raise ValueError(
            f"The noise schedule of this configuration ({stated}) is none of {', '.join(SCHEDULES)}: keep its own scheduler."
        )

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None):
        """Chooses the timesteps of a generation: `timesteps`, float32, from T - 1 (u = 1) down to T/N - 1 (u = 1/N).

        Args:
            num_inference_steps: the number N of steps, any integer ≥ 1.
            device: where to keep the timesteps.
        """
        if (
            isinstance(num_inference_steps, bool)
            or not isinstance(num_inference_steps, numbers.Integral)
            or num_inference_steps < 1
        ):
            raise ValueError(f"`num_inference_steps` is {num_inference_steps!r}, but must be an integer >= 1.")
        self.num_inference_steps = num_inference_steps
        diffusion_time = torch.arange(num_inference_steps, 0, -1, dtype=torch.float64) / num_inference_steps
        self.timesteps = self.schedule.timestep(diffusion_time).to(device, torch.float32)
        signal_rates, noise_rates = self.schedule.rates(diffusion_time)
        # What follows the last timestep is the predicted image itself: signal rate 1, noise rate 0.
        self._signal_rates = torch.nn.functional.pad(signal_rates, (0, 1), value=1.0).to(device, torch.float32)
        self._noise_rates = torch.nn.functional.pad(noise_rates, (0, 1), value=0.0).to(device, torch.float32)

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | float | None = None) -> torch.Tensor:
        """Returns `sample` as it is; other schedulers scale here."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> FlowerDDIMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """One step of equation (12) of Song et al. 2020, from `timestep` to the one that follows it in `timesteps`.

        Args:
            model_output: prediction of the model, shape (B, C, H, W).
            timestep: one of `timesteps` (the nearest is taken, since half precision cannot hold them all).
            sample: the noisy images x_t, in the shape of `model_output`.
            eta: η in [0, 1]: 0 is deterministic, 1 adds the noise of DDPM.
            generator: source of the noise for η > 0, one for all images or one each.
            variance_noise: the noise itself, instead of a generator.
            return_dict: whether to return a [`FlowerDDIMSchedulerOutput`] or a tuple.

        Returns:
            `prev_sample` and `pred_original_sample`, in the dtype of `sample`; computed in float32 or better.
        """
        if self.num_inference_steps is None:
            raise ValueError("`num_inference_steps` is not set: call `set_timesteps` before `step`.")
        if not 0 <= eta <= 1:
            raise ValueError(f"`eta` is {eta}, but must lie in [0, 1].")
        if variance_noise is not None and generator is not None:
            raise ValueError("Pass either `generator` or `variance_noise`, not both.")

        # Names here -> names in the paper, in this package's terms
        # - sample, prev_sample                      -> x_t, x_{t'}
        # - pred_original_sample, pred_noise         -> x̂_0, ε_θ
        # - signal_rate, prev_signal_rate            -> √ᾱ_t, √ᾱ_{t'}
        # - noise_rate, prev_noise_rate              -> √(1-ᾱ_t), √(1-ᾱ_{t'})
        # - std_dev                                  -> σ_t(η)

        # 1. this timestep and the one that follows
        index = self._index(timestep)
        signal_rate, prev_signal_rate = self._signal_rates[index], self._signal_rates[index + 1]
        noise_rate, prev_noise_rate = self._noise_rates[index], self._noise_rates[index + 1]

        # 2. predicted image and noise
        dtype = sample.dtype
        compute_dtype = torch.promote_types(dtype, torch.float32)
        sample, model_output = sample.to(compute_dtype), model_output.to(compute_dtype)
        pred_original_sample, pred_noise = self._predictions(model_output, sample, signal_rate, noise_rate)
        if self.config.clip_sample:
            limit = self.config.clip_sample_range
            pred_original_sample = pred_original_sample.clamp(-limit, limit)
            pred_noise = (sample - signal_rate * pred_original_sample) / noise_rate

        # 3. σ_t(η) of equation (16)
        std_dev = 0.0
        if eta > 0:
            one_step_variance = 1 - (signal_rate / prev_signal_rate) ** 2
            std_dev = eta * (prev_noise_rate / noise_rate) * one_step_variance.clamp(min=0).sqrt()

        # 4. equation (12): signal, direction pointing to x_t, fresh noise
        direction = (prev_noise_rate**2 - std_dev**2).clamp(min=0).sqrt() * pred_noise
        prev_sample = prev_signal_rate * pred_original_sample + direction
        if eta > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(
                    sample.shape, generator=generator, device=sample.device, dtype=compute_dtype
                )
            prev_sample = prev_sample + std_dev * variance_noise

        prev_sample, pred_original_sample = prev_sample.to(dtype), pred_original_sample.to(dtype)
        if not return_dict:
            return prev_sample, pred_original_sample
        return FlowerDDIMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=pred_original_sample)

    def invert_step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        prev_sample: torch.Tensor,
    ) -> torch.Tensor:
        """The sample which [`step`] with η = 0 takes to `prev_sample`, if the model predicts `model_output` at it.

        Equation (12) of Song et al. 2020 solved for x_t. What the model predicts depends on x_t, so this is one iteration towards
        a fixed point. It converges fastest with the quantity held that the network is smooth in: the noise of a network that
        predicts noise, otherwise the velocity, with which nothing is divided by a small rate. With the angle whose cosine is
        the signal rate, and its difference δ between the timesteps, the equation then reads x_{t'} = cos δ · x_t - sin δ · v.

        Args:
            model_output: prediction of the model at `sample`, shape (B, C, H, W).
            timestep: the t of x_t, one of `timesteps` (the nearest is taken).
            sample: the guess of x_t at which the model was asked.
            prev_sample: x_{t'}; after the last timestep that is the image.
        """
        index = self._index(timestep)
        signal_rate, prev_signal_rate = self._signal_rates[index], self._signal_rates[index + 1]
        noise_rate, prev_noise_rate = self._noise_rates[index], self._noise_rates[index + 1]
        dtype = sample.dtype
        compute_dtype = torch.promote_types(dtype, torch.float32)
        model_output, sample, prev_sample = (x.to(compute_dtype) for x in (model_output, sample, prev_sample))
        if self.config.prediction_type == "epsilon":
            pred_original_sample = (prev_sample - prev_noise_rate * model_output) / prev_signal_rate
            guess = signal_rate.clamp(min=SIGNAL_RATE_FLOOR) * pred_original_sample + noise_rate * model_output
        else:
            pred_original_sample, pred_noise = self._predictions(model_output, sample, signal_rate, noise_rate)
            velocity = signal_rate * pred_noise - noise_rate * pred_original_sample
            cos = prev_signal_rate * signal_rate + prev_noise_rate * noise_rate
            sin = prev_signal_rate * noise_rate - prev_noise_rate * signal_rate
            guess = (prev_sample + sin * velocity) / cos
        return guess.to(dtype)

    def _index(self, timestep: torch.Tensor | float) -> torch.Tensor:
        """Place of `timestep` in `timesteps`: looked up, as no arithmetic could miss it, and no device is waited for."""
        return (self.timesteps - torch.as_tensor(timestep, device=self.timesteps.device)).abs().argmin()

    def _predictions(
        self, model_output: torch.Tensor, sample: torch.Tensor, signal_rate: torch.Tensor, noise_rate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted image x̂_0 and predicted noise from what the model predicts (`prediction_type`)."""
        if self.config.prediction_type == "epsilon":
            return (sample - noise_rate * model_output) / signal_rate.clamp(min=SIGNAL_RATE_FLOOR), model_output
        if self.config.prediction_type == "sample":
            return model_output, (sample - signal_rate * model_output) / noise_rate
        return signal_rate * sample - noise_rate * model_output, signal_rate * model_output + noise_rate * sample

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | float
    ) -> torch.Tensor:
        """The forward process in closed form: signal_rate · x_0 + noise_rate · ε (Ho et al. 2020, equation 4).

        Args:
            original_samples, noise: shape (B, ...).
            timesteps: in [-1, T - 1], integer or fractional, a number or a tensor of shape (), (1,) or (B,).
        """
        signal_rate, noise_rate = self._rates_at(timesteps, original_samples)
        return (signal_rate * original_samples + noise_rate * noise).to(original_samples.dtype)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | float) -> torch.Tensor:
        """The velocity signal_rate · ε - noise_rate · x_0 (Salimans & Ho 2022, appendix D); arguments as for `add_noise`."""
        signal_rate, noise_rate = self._rates_at(timesteps, sample)
        return (signal_rate * noise - noise_rate * sample).to(sample.dtype)

    def _rates_at(self, timesteps: torch.Tensor | float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rates at any timesteps, shaped to multiply the samples `like`."""
        diffusion_time = self.schedule.diffusion_time(torch.as_tensor(timesteps, device=like.device))
        shape = (-1,) + (1,) * (like.ndim - 1)
        return tuple(rate.reshape(shape) for rate in self.schedule.rates(diffusion_time))
