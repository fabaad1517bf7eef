"""How the C library deals with memory that tensors no longer need."""

import ctypes
import sys


# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Lets this process keep the memory of freed tensors for the next ones; returns whether the C library can be told so.

    By default glibc gives large blocks back to the system at once, which hands them out again page by page, each wiped: every
    layer of a network on a CPU pays for that anew. On GPUs PyTorch keeps memory by itself. The price is that the process stays as
    large as it was at its peak, and that the peak is higher, since not every block fits where another one was. Only glibc knows
    this switch, so it does nothing on macOS, on Windows, or with musl.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # Large blocks come from the heap like small ones, and the heap never shrinks.
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
