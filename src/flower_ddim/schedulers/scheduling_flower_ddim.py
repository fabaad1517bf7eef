"""DDIM sampling (Song et al. 2020) over continuous diffusion time, with the interface of diffusers' schedulers."""

import numbers

import torch
from diffusers import ConfigMixin, DDPMScheduler, SchedulerMixin, __version__
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from ..storage.json_objects import read_json_object
from .noise_schedules import SCHEDULES, SIGNAL_RATE_FLOOR, DiffusionSchedule


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


class FlowerDDIMScheduler(SchedulerMixin, ConfigMixin):
    """Denoising diffusion implicit models (Song et al. 2020), exact for every number of steps.

    N steps visit the diffusion times u = 1, 1 - 1/N, …, 1/N, that is the timesteps T·u - 1, which need not be integers. The last
    step returns the predicted image. Stock schedulers such as `DPMSolverMultistepScheduler` are made from this one's configuration:
    `DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`.

    Args:
        num_train_timesteps: number T of integer timesteps.
        schedule, min_signal_rate, max_signal_rate: see [`DiffusionSchedule`]; must be those of the model.
        prediction_type: what the model predicts: the noise (`"epsilon"`), the image (`"sample"`), or the velocity
            signal_rate · ε - noise_rate · x_0 (`"v_prediction"`; Salimans & Ho 2022, appendix D).
        clip_sample: whether to clip the predicted image to ±`clip_sample_range`, and to derive the noise anew from it.

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

    # Stock schedulers read these entries from the configuration, and with them compute the same; they are no arguments here.
    _for_stock_schedulers = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "final_sigmas_type": "zero"}

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

        # `from_config` of another class drops what is listed as left at its default, and takes that class's own. It must not drop
        # arguments that the stock schedulers share; it should drop ours, or warn of them.
        own = {"schedule": schedule, "min_signal_rate": min_signal_rate, "max_signal_rate": max_signal_rate}
        defaults = DiffusionSchedule.name, DiffusionSchedule.min_signal_rate, DiffusionSchedule.max_signal_rate
        left_at_default = [name for name, default in zip(own, defaults, strict=True) if own[name] == default]
        self.register_to_config(
            trained_betas=self.schedule.betas().tolist(),
            _use_default_values=left_at_default,
            _class_name=type(self).__name__,  # both as in a file, so that saving and loading change nothing
            _diffusers_version=__version__,
            **self._for_stock_schedulers,
        )

        self.num_inference_steps = None
        self.timesteps = self.schedule.timestep(torch.arange(num_train_timesteps, 0, -1) / num_train_timesteps)
        self._rates = None

    @classmethod
    def _dict_from_json_file(cls, json_file):
        return read_json_object(json_file)

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        # Derived entries are derived anew: a table that belongs to other arguments must not survive a change of these.
        # So must a choice of times for one solver: the next one made from our configuration would take it along.
        derived = ("trained_betas", "use_karras_sigmas", *cls._for_stock_schedulers)
        own = {name: value for name, value in config_dict.items() if name not in derived}
        if "schedule" not in config_dict and "schedule" not in kwargs:
            own["schedule"] = cls._schedule_of(config_dict)
        return super().extract_init_dict(own, **kwargs)

    @classmethod
    def _schedule_of(cls, config: dict) -> str:
        """Name of the schedule in a configuration that a stock scheduler has written; a ValueError if it is none of ours."""
        foreign = {name for name in config if not name.startswith("_")} - cls._get_init_keys(cls)
        if not foreign and config.get("_class_name", cls.__name__) == cls.__name__:
            return DiffusionSchedule.name  # a configuration of our own, in which all that is not said is as we have it
        names = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
        given = {name: config[name] for name in names if config.get(name) is not None}
        is_comparable = "trained_betas" in given or given.get("beta_schedule") == "linear"
        if is_comparable and not config.get("use_flow_sigmas"):
            table = DDPMScheduler(config.get("num_train_timesteps", 1000), **given).alphas_cumprod
            rates = {name: config[name] for name in ("min_signal_rate", "max_signal_rate") if name in config}
            for name in SCHEDULES:
                ours = DiffusionSchedule(name, num_train_timesteps=len(table), **rates).alphas_cumprod()
                if (ours - table).abs().max() < 1e-3:  # the table is a cumulative product in float32
                    return name
        what = "by its betas" if is_comparable else given.get("beta_schedule", "without any betas")
        what = f"The noise schedule of this configuration ({what})"
        remedy = "keep its own scheduler, or name ours with `schedule`"
        raise ValueError(f"{what} is none of {', '.join(SCHEDULES)}: {remedy}.")

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None):
        """Chooses `timesteps`, float32, for N = `num_inference_steps` ≥ 1 (else ValueError): T - 1 (u = 1) to T/N - 1 (u = 1/N)."""
        is_count = isinstance(num_inference_steps, numbers.Integral) and not isinstance(num_inference_steps, bool)
        if not is_count or num_inference_steps < 1:
            raise ValueError(f"`num_inference_steps` is {num_inference_steps!r}, but must be an integer >= 1.")
        self.num_inference_steps = num_inference_steps
        diffusion_time = torch.arange(num_inference_steps, 0, -1, dtype=torch.float64) / num_inference_steps
        self.timesteps = self.schedule.timestep(diffusion_time).to(device, torch.float32)
        rates = torch.stack(self.schedule.rates(diffusion_time))
        # After the last timestep comes the predicted image itself: signal rate 1, noise rate 0.
        following = torch.cat([rates[:, 1:], torch.tensor([[1.0], [0.0]], dtype=rates.dtype)], dim=1)
        self._rates = torch.cat([rates, following]).to(device, torch.float32)

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | float | None = None) -> torch.Tensor:
        """Returns `sample` as it is; other schedulers scale it here."""
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
    ) -> DDIMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """One step of equation (12) of Song et al. 2020, from `timestep` to the one that follows it in `timesteps`.

        Args:
            model_output: prediction of the model, shape (B, C, H, W).
            timestep: one of `timesteps`, or near one: half precision cannot hold them all.
            sample: the noisy images x_t, shape (B, C, H, W).
            eta: η in [0, 1], else a ValueError: 0 is deterministic, 1 adds the noise of DDPM.
            generator: source of the noise for η > 0, one for all images or one each.
            variance_noise: the noise itself, instead of a generator.
            return_dict: whether to return a [`DDIMSchedulerOutput`] or a tuple: `prev_sample`, x_{t'} at the next timestep and
                after the last one the image, and `pred_original_sample`, the predicted image x̂_0, in the dtype of `sample`.
        """
        self._check_step(eta, generator, variance_noise)
        # Names here -> names in the paper, in this package's terms
        # - sample, prev_sample                      -> x_t, x_{t'}
        # - pred_original_sample, pred_noise         -> x̂_0, ε_θ
        # - signal_rate, prev_signal_rate            -> √ᾱ_t, √ᾱ_{t'}
        # - noise_rate, prev_noise_rate              -> √(1-ᾱ_t), √(1-ᾱ_{t'})
        # - std_dev                                  -> σ_t(η)

        # 1. this timestep and the one that follows
        signal_rate, noise_rate, prev_signal_rate, prev_noise_rate = self._rates_of_step(timestep)

        # 2. predicted image and noise
        dtype = sample.dtype
        compute_dtype = torch.promote_types(dtype, torch.float32)
        sample, model_output = sample.to(compute_dtype), model_output.to(compute_dtype)
        pred_original_sample, pred_noise = self.predictions(model_output, sample, signal_rate, noise_rate)
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
                variance_noise = randn_tensor(sample.shape, generator, sample.device, dtype=compute_dtype)
            prev_sample = prev_sample + std_dev * variance_noise

        output = prev_sample.to(dtype), pred_original_sample.to(dtype)
        return DDIMSchedulerOutput(*output) if return_dict else output

    def _check_step(self, eta: float, generator, variance_noise):
        if not 0 <= eta <= 1:
            raise ValueError(f"`eta` is {eta}, but must lie in [0, 1].")
        if variance_noise is not None and generator is not None:
            raise ValueError("Pass either `generator` or `variance_noise`, not both.")

    def invert_step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        prev_sample: torch.Tensor,
    ) -> torch.Tensor:
        """The sample which [`step`] with η = 0 takes to `prev_sample`, if the model predicts `model_output` at it.

        Equation (12) of Song et al. 2020 solved for x_t. What the model predicts depends on x_t, so this is one iteration towards a
        fixed point. It converges fastest where the quantity held is the one in which the network is smooth: the noise if it
        predicts noise, else the velocity, for which nothing is divided by a small rate. If cos α is the signal rate, and δ the
        difference of the α of both timesteps, the equation then reads x_{t'} = cos δ · x_t - sin δ · v.

        Args:
            model_output: prediction of the model at `sample`, shape (B, C, H, W).
            timestep: the t of x_t, one of `timesteps`.
            sample: the guess of x_t that the model was given.
            prev_sample: x_{t'}; after the last timestep that is the image.
        """
        signal_rate, noise_rate, prev_signal_rate, prev_noise_rate = self._rates_of_step(timestep)
        dtype = sample.dtype
        compute_dtype = torch.promote_types(dtype, torch.float32)
        model_output, sample, prev_sample = (x.to(compute_dtype) for x in (model_output, sample, prev_sample))
        if self.config.prediction_type == "epsilon":
            pred_original_sample = (prev_sample - prev_noise_rate * model_output) / prev_signal_rate
            guess = signal_rate.clamp(min=SIGNAL_RATE_FLOOR) * pred_original_sample + noise_rate * model_output
        else:
            pred_original_sample, pred_noise = self.predictions(model_output, sample, signal_rate, noise_rate)
            velocity = signal_rate * pred_noise - noise_rate * pred_original_sample
            cos = prev_signal_rate * signal_rate + prev_noise_rate * noise_rate
            sin = prev_signal_rate * noise_rate - prev_noise_rate * signal_rate
            guess = (prev_sample + sin * velocity) / cos
        return guess.to(dtype)

    def _rates_of_step(self, timestep: torch.Tensor | float) -> tuple[torch.Tensor, ...]:
        """Signal and noise rate at `timestep`, then those at the timestep that follows it, shape (1,) each."""
        if self.num_inference_steps is None:
            raise ValueError("`num_inference_steps` is not set: call `set_timesteps` first.")
        # Looked up, since arithmetic could miss the place, and all on the device, so that nothing waits for it.
        distances = (self.timesteps - torch.as_tensor(timestep, device=self.timesteps.device)).abs()
        return self._rates.index_select(1, distances.argmin().reshape(1)).unbind()

    def predictions(
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

        `original_samples` and `noise` have the shape (B, ...); `timesteps` in [-1, T - 1], integer or fractional, are a number or a
        tensor of shape (), (1,) or (B,).
        """
        signal_rate, noise_rate = self._rates_at(timesteps, original_samples)
        return (signal_rate * original_samples + noise_rate * noise).to(original_samples.dtype)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | float) -> torch.Tensor:
        """The velocity signal_rate · ε - noise_rate · x_0 (Salimans & Ho 2022, appendix D); arguments as for `add_noise`."""
        signal_rate, noise_rate = self._rates_at(timesteps, sample)
        return (signal_rate * noise - noise_rate * sample).to(sample.dtype)

    def get_target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | float) -> torch.Tensor:
        """What a network should predict, as `prediction_type` says: the noise, the images, or the velocity at these timesteps."""
        if self.config.prediction_type == "epsilon":
            return noise
        return images if self.config.prediction_type == "sample" else self.get_velocity(images, noise, timesteps)

    def _rates_at(self, timesteps: torch.Tensor | float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rates at any timesteps, shaped to multiply the samples `like`."""
        diffusion_time = self.schedule.diffusion_time(torch.as_tensor(timesteps, device=like.device))
        shape = (-1,) + (1,) * (like.ndim - 1)
        return tuple(rate.reshape(shape) for rate in self.schedule.rates(diffusion_time))
