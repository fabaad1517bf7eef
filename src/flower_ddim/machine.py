"""What the numbers were measured on, and with."""

import importlib.metadata
import logging
import os
import platform
from functools import cache
from pathlib import Path

import psutil


logger = logging.getLogger(__name__)

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def describe_machine(threads: int) -> dict:
    """Processor, memory, versions and the load at this moment."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": threads,
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        # Of the last minute: near 0 on a quiet machine.
        "load_before": psutil.getloadavg()[0],
    }


@cache
def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; where its system does not tell, it counts as if it had none."""
    return any(map(_has_flag, ("avx512_bf16", "amx_bf16", "bf16")))


def warn_of_emulated_bfloat16(dtype: str, device: str):
    """Warns where a processor computes in bfloat16 (`dtype`) without instructions for it."""
    if dtype in ("bfloat16", "bf16") and device == "cpu" and not has_bfloat16():
        logger.warning(
            "This processor has no known instructions for bfloat16, so float32 may be several times as fast: choose that, in "
            "training with `--mixed_precision no`."
        )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    extensions = [name for name in ("avx2", "avx512_bf16", "amx_bf16") if _has_flag(name)]
    return f"{name} ({', '.join(extensions)})" if extensions else name


def _has_flag(flag: str) -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and f" {flag} " in cpuinfo.read_text().replace("\n", " ")
