"""`flower-ddim train` and `scripts/train.py`; the training has its own entrance, for launchers that take a module."""

from ..training.arguments import main


__all__ = ["main"]
