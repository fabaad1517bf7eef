"""Compiles networks: checks that there is a compiler, and freezes weights that no longer change."""

import os
import shutil
import sys

import torch


def check_compiler():
    """Raises a ValueError where PyTorch finds no C++ compiler, which it needs to compile networks for a CPU."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if shutil.which(compiler) is None:
        raise ValueError(
            f"`compile` needs a C++ compiler, and there is no {compiler} here: install it, or leave `--compile` out "
            "(after a recipe that has it, `--compile false`)."
        )


def compile_unet(unet: torch.nn.Module):
    """Compiles a network for generation, in place: `pipe.unet.compile(dynamic=False, options={"freezing": True})`.

    The first call with a new shape takes a minute or less, and less in later processes, which find its code in PyTorch's cache.
    Frozen weights are a part of the compiled code, in the layout that the convolutions want, so later changes of them have no
    effect. Only calls without gradients are frozen; those of the pipeline have none.

    Args:
        unet: any U-Net, in the dtype and on the device that it will be used with.

    Raises:
        ValueError: if it is on a CPU and there is no C++ compiler.
    """
    if unet.device.type == "cpu":
        check_compiler()
    unet.compile(dynamic=False, options={"freezing": True})
