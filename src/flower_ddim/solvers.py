"""The samplers that a pipeline can be given by name, all for the same trained network."""

from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from .pipeline_flower_ddim import FlowerDDIMPipeline
from .scheduling_flower_ddim import FlowerDDIMScheduler


SOLVERS = {
    "ddim": FlowerDDIMScheduler,  # Song et al. 2020
    "dpm++": DPMSolverMultistepScheduler,  # DPM-Solver++, Lu et al. 2022
    "unipc": UniPCMultistepScheduler,  # Zhao et al. 2023
}


def use_solver(pipe: FlowerDDIMPipeline, name: str):
    """Gives `pipe` the sampler `name`, one of `SOLVERS`, made from the configuration of the one it has."""
    if name not in SOLVERS:
        raise ValueError(f"There is no solver {name!r}: choose one of {', '.join(SOLVERS)}.")
    pipe.scheduler = SOLVERS[name].from_config(pipe.scheduler.config)
