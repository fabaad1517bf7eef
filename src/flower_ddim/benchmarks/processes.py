"""Starts the processes of the contenders, and talks to them."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from .contenders import CONTENDERS, Job


def find_tensorflow(python: str | None = None) -> str | None:
    """Finds an interpreter with TensorFlow: the given one, else that of `make bench`, else this one, else `None`."""
    if python is not None:
        if not Path(python).exists():
            raise FileNotFoundError(f"There is no interpreter {python}: make one with `make bench`, or leave it out.")
        return python
    own = Path(".venv-bench", "bin", "python")
    if own.exists():
        return str(own)
    return sys.executable if importlib.util.find_spec("tensorflow") else None


class Worker:
    """A contender in a process of its own. The constructor starts it with `job` and waits until it is ready.

    Args:
        python: the interpreter.
        threads: number of threads that it computes with.

    Raises:
        ChildProcessError: if the process ends with an error. The message holds its last output.
    """

    def __init__(self, job: Job, threads: int, python: str = sys.executable):
        self.job = job
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the process
        command = [python, "-m", "flower_ddim.benchmarks.worker", json.dumps(asdict(job))]
        number = str(threads)
        environment = os.environ | {
            "OMP_NUM_THREADS": number,
            "TF_NUM_INTRAOP_THREADS": number,
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise
        #: From the start of the process until it is ready.
        self.startup_seconds = time.perf_counter() - start

    def turn(self) -> dict:
        """Lets the contender do its task once; returns its `seconds` and its `peak_memory` so far, in bytes."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self):
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read()[-2000:].strip()
            raise ChildProcessError(f"{CONTENDERS[self.job.contender].label} ({self.job.task}) failed: {last}")
        return json.loads(line)
