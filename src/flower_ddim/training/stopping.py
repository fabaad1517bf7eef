"""Stopping a training before its last step: on a signal, or when its time is up, in all processes after the same step."""

import signal
import threading
import time
from datetime import timedelta
from enum import IntEnum

import torch
import torch.distributed as dist
from accelerate import Accelerator


# How long processes wait for each other: the first one decodes all pictures while the others wait.
PROCESS_GROUP_TIMEOUT = timedelta(hours=2)


class StopReason(IntEnum):
    """Why a training stops before its last step. Where processes have different reasons, the highest one counts."""

    NONE = 0
    TIME_IS_UP = 1
    INTERRUPTED = 2
    TERMINATED = 3

    @property
    def words(self) -> str:
        return {self.TIME_IS_UP: "its time is up", self.INTERRUPTED: "of Ctrl-C", self.TERMINATED: "of SIGTERM"}[self]

    @property
    def exit_code(self) -> int:
        """What a program that a signal ends returns by convention: 128 and the number of the signal."""
        return {self.INTERRUPTED: 128 + signal.SIGINT, self.TERMINATED: 128 + signal.SIGTERM}.get(self, 0)


_REASON_OF = {signal.SIGINT: StopReason.INTERRUPTED, signal.SIGTERM: StopReason.TERMINATED}


class StopWatch:
    """Watches, as a context, for signals and for the time. Within it a signal no longer ends the process at once.

    Args:
        minutes: after which the time is up; `None` is never.
    """

    def __init__(self, accelerator: Accelerator, minutes: float | None):
        # Not the group of the gradients: on GPUs an answer from it would wait for all the work that is under way.
        several = accelerator.num_processes > 1
        self._group = dist.new_group(backend="gloo", timeout=PROCESS_GROUP_TIMEOUT) if several else None
        self.minutes = minutes
        self.reason = StopReason.NONE

    def __enter__(self) -> "StopWatch":
        self._start = time.monotonic()
        # Python takes signals in the main thread only; a training in another one is not told of them.
        numbers = _REASON_OF if threading.current_thread() is threading.main_thread() else ()
        self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number, _):
        self.reason = _REASON_OF[number]

    def ask(self) -> StopReason:
        """Why to stop now, in any process; every process must ask after the same step, and learns the same."""
        if self.minutes and time.monotonic() - self._start > 60 * self.minutes:
            self.reason = self.reason or StopReason.TIME_IS_UP
        agreed = self.reason
        if self._group:
            highest = torch.tensor(int(agreed))
            dist.all_reduce(highest, dist.ReduceOp.MAX, self._group)
            agreed = StopReason(highest.item())
        # A signal that arrives while the others are asked is remembered, and does not make this process leave before them.
        self.reason = max(self.reason, agreed)
        return agreed
