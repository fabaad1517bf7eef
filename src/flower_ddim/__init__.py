"""Denoising diffusion on Oxford flowers, in the manner of diffusers: offset-cosine schedule, small U-Net, DDIM in 20 steps.

Public names are loaded when they are first used, so `import flower_ddim` itself costs nothing.
"""

import importlib
from pathlib import Path


__version__ = "0.1.0"


def pretrained(name: str) -> str:
    """The folder of a model that comes with the package, for `FlowerDDIMPipeline.from_pretrained(pretrained(name))`.

    Raises:
        ValueError: if there is no such model, with those that there are.
    """
    folders = {path.name: str(path) for path in (Path(__file__).parent / "pretrained").iterdir() if path.is_dir()}
    if name in folders:
        return folders[name]
    import difflib  # here, so that `import flower_ddim` stays quick

    near = difflib.get_close_matches(name, folders, n=1)
    question = f": did you mean {near[0]}?" if near else "."
    raise ValueError(f"There is no model {name!r}; the package has {', '.join(sorted(folders))}{question}")


#: Folder of the model that is used where none is named.
PRETRAINED = pretrained("flower-ddim-64")

_MODULE_OF = {
    "DiffusionSchedule": "schedulers.noise_schedules",
    "FlowerDDIMPipeline": "pipelines.pipeline_flower_ddim",
    "FlowerDDIMScheduler": "schedulers.scheduling_flower_ddim",
    "FlowerUNet2DModel": "models.unet_flower_ddim",
}

__all__ = ["PRETRAINED", "__version__", "pretrained", *_MODULE_OF]


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
