"""Compares contenders. They take turns within one run, so other work on the machine slows all of them."""

import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from ..machine import has_bfloat16
from .contenders import CONTENDERS, Job, check_counts
from .processes import Worker


logger = logging.getLogger(__name__)

CEILINGS = [name for name in CONTENDERS if name.startswith("ceiling-")]
ENTRANTS = [name for name in CONTENDERS if name not in CEILINGS]


def default_entrants() -> list[str]:
    """All of them, or those in float32 on a processor without instructions for bfloat16, which it could only imitate."""
    return [name for name in ENTRANTS if CONTENDERS[name].dtype == "float32" or has_bfloat16()]


@dataclass
class Settings:
    """What to measure, and how long.

    Args:
        contenders: names from `CONTENDERS`.
        rounds: turns of every contender.
        threads: number of threads for each.
        tensorflow_python: interpreter for the contender in Keras, which does not take part without one.
    """

    contenders: Sequence[str] = field(default_factory=default_entrants)
    rounds: int = 3
    threads: int = 1
    train_batch_size: int = 64
    batch_size: int = 16
    num_inference_steps: int = 20
    sample_size: int = 64
    block_out_channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    layers_per_block: int = 2
    tensorflow_python: str | None = None

    def __post_init__(self):
        check_counts(self, "rounds", "threads", "train_batch_size", "batch_size", "num_inference_steps")
        unknown = ", ".join(set(self.contenders) - set(ENTRANTS))
        if unknown:
            raise ValueError(f"There is no contender {unknown}: choose among {', '.join(ENTRANTS)}.")
        if self.tensorflow_python is None and "keras" in self.contenders:
            logger.warning(
                "TensorFlow is not installed, so Keras does not take part: `make bench` makes its environment."
            )
            self.contenders = [name for name in self.contenders if name != "keras"]

    def job(self, contender: str, task: str) -> Job:
        batch_size = {"train": self.train_batch_size, "first_picture": 1}.get(task, self.batch_size)
        sizes = (self.sample_size, self.block_out_channels, self.layers_per_block)
        return Job(contender, task, batch_size, *sizes, self.num_inference_steps)

    def worker(self, job: Job) -> Worker:
        python = self.tensorflow_python if job.contender == "keras" else sys.executable
        return Worker(job, self.threads, python)


def compare(settings: Settings) -> dict:
    """Measures training, generation and startup; returns `training`, `generation`, `first_picture` and `imports`.

    Training and generation hold a list of seconds and more for every contender, and `gflops` for the ceilings.
    """
    result = {"training": take_turns(settings, "train"), "generation": take_turns(settings, "generate")}
    return result | {"first_picture": first_pictures(settings), "imports": import_times(settings.rounds)}


def take_turns(settings: Settings, task: str) -> dict[str, dict]:
    """Lets every contender do `task` once a round, and measures the ceilings of their dtypes in between."""
    with ExitStack() as stack:
        workers = {}
        for name in settings.contenders:
            if task == "train" and CONTENDERS[name].step_share < 1:
                continue
            workers[name] = stack.enter_context(settings.worker(settings.job(name, task)))
            logger.info(f"{task}: {name} is ready after {workers[name].startup_seconds:.1f} s")
        dtypes = {CONTENDERS[name].dtype for name in settings.contenders}
        for name in (ceiling for ceiling in CEILINGS if CONTENDERS[ceiling].dtype in dtypes):
            workers[name] = stack.enter_context(settings.worker(settings.job(name, "ceiling")))
        turns = {name: [] for name in workers}
        for i in range(settings.rounds):
            # Every second round goes backwards, so that no contender always follows the same one.
            for name in list(workers)[:: 1 if i % 2 == 0 else -1]:
                turns[name].append(workers[name].turn())
            logger.info(f"{task}: round {i + 1} of {settings.rounds}")
        return {name: _row(worker, turns[name]) for name, worker in workers.items()}


def _row(worker: Worker, turns: list[dict]) -> dict:
    row = worker.facts | {"startup_seconds": worker.startup_seconds}
    if "gflops" in turns[0]:
        return row | {"gflops": [turn["gflops"] for turn in turns]}
    seconds = [turn["seconds"] for turn in turns]
    images = worker.job.batch_size
    return row | {
        "images": images,
        "seconds": seconds,
        "images_per_second": images / statistics.median(seconds),
        "peak_memory": turns[-1]["peak_memory"],
    }


def first_pictures(settings: Settings) -> dict[str, list[float]]:
    """Measures the seconds from the start of a process until it has written a first picture, by contender.

    Those that compile do not take part: for a single picture nobody compiles.
    """
    with tempfile.TemporaryDirectory() as folder:
        jobs = {}
        for name in settings.contenders:
            contender = CONTENDERS[name]
            if contender.loads and not contender.compiled and contender.step_share == 1:
                job = replace(settings.job(name, "save"), folder=f"{folder}/{name}")
                settings.worker(job).close()
                jobs[name] = replace(job, task="first_picture", batch_size=1)

        def measure(name):
            with settings.worker(jobs[name]) as worker:
                return worker.startup_seconds

        found = _rounds(list(jobs), settings.rounds, measure)
    logger.info("measured first pictures")
    return found


def import_times(rounds: int) -> dict[str, list[float]]:
    """Measures the seconds that an import takes in a fresh process. `nothing` is the share of the clock."""
    statements = {"nothing": "pass", "import flower_ddim": "import flower_ddim"}
    statements["FlowerDDIMPipeline"] = "from flower_ddim import FlowerDDIMPipeline"

    def measure(name):
        program = f"import time; start = time.perf_counter(); {statements[name]}; print(time.perf_counter() - start)"
        return float(
            subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
        )

    measure("FlowerDDIMPipeline")  # the first import reads files from the disk, later ones from memory
    return _rounds(list(statements), rounds, measure)


def _rounds(names: list[str], rounds: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    found = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(measure(name))
    return found
