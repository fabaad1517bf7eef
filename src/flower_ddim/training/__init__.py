"""The training: one step, the loop around it, and all that keeps its work safe.

`train` and `TrainingConfig` are loaded when they are first used.
"""

import importlib


_MODULE_OF = {"TrainingConfig": "config", "train": "run"}

__all__ = ["TrainingConfig", "train"]


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
