"""The samplers that a pipeline can be given by name, all for the same trained network."""

import inspect

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    UniPCMultistepScheduler,
)

from ..pipelines.loading import TESTED_SCHEDULERS


SOLVERS = {
    "ddim": DDIMScheduler,  # or the pipeline's own, where that is one; Song et al. 2020
    "dpm++": DPMSolverMultistepScheduler,  # DPM-Solver++, Lu et al. 2022
    "unipc": UniPCMultistepScheduler,  # Zhao et al. 2023
    "euler": EulerDiscreteScheduler,  # Karras et al. 2022, algorithm 2 without churn
    "heun": HeunDiscreteScheduler,  # the same paper, algorithm 1: two evaluations a step
    "kdpm2": KDPM2DiscreteScheduler,  # DPM-Solver-2 with the times of that paper: two evaluations a step
    "ddpm": DDPMScheduler,  # Ho et al. 2020
}


def check_eta(eta: float, solver: str):
    """Raises a ValueError where η is given to a sampler that has none."""
    if eta and solver != "ddim":
        raise ValueError(f"η belongs to ddim: leave `eta` at 0 for {solver}.")


def with_solver(pipe: DiffusionPipeline, name: str) -> DiffusionPipeline:
    """A pipeline with the same network and a sampler of its own, `name` of `SOLVERS`, without a progress bar.

    Raises:
        ValueError: if there is no such sampler.
    """
    if name not in SOLVERS:
        raise ValueError(f"There is no solver {name!r}: choose one of {', '.join(SOLVERS)}.")
    own = type(pipe.scheduler)
    is_ddim = "eta" in inspect.signature(own.step).parameters
    scheduler_class = own if name == "ddim" and is_ddim else SOLVERS[name]
    # The times that one solver needs are not those of another.
    config = {key: value for key, value in pipe.scheduler.config.items() if key != "use_karras_sigmas"}
    settings = TESTED_SCHEDULERS.get(scheduler_class.__name__, {})
    other = type(pipe)(pipe.unet, scheduler_class.from_config(config, **settings))
    other.set_progress_bar_config(disable=True)
    return other
