"""The process of one contender, `python -m flower_ddim.benchmarks.worker JOB`.

It does its task once for every line that it reads, answers with a line of JSON, and ends with its input. It is idle between lines.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .contenders import CONTENDERS, Job


def peak_memory() -> int:
    """The most bytes of memory that this process has had at a time."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts the process that started this one too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_turn(job: Job) -> tuple[Callable[[], dict], dict]:
    """Gets everything ready and takes the first turn, which compiles code; returns the function of a turn, and facts to report."""
    contender = CONTENDERS[job.contender]
    module = importlib.import_module(f".{contender.module}", __package__)
    worker = getattr(module, contender.cls)(contender, job)
    if job.task in ("save", "first_picture"):
        getattr(worker, job.task)(job.folder)
        return dict, {}
    work = getattr(worker, job.task)()

    def turn() -> dict:
        start = time.perf_counter()
        measured = work() or {}
        return {"seconds": time.perf_counter() - start, "peak_memory": peak_memory()} | measured

    turn()
    return turn, worker.facts()


def main():
    job = Job(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # prints of libraries must not come between the answers
    turn, facts = make_turn(job)
    print(json.dumps(facts), file=answers)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=answers)


if __name__ == "__main__":
    main()
