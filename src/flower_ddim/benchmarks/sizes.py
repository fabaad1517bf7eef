"""Measures time and memory of training and generation for several numbers of pixels, widths and batch sizes."""

import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from .contenders import Job, check_counts
from .worker import make_turn


logger = logging.getLogger(__name__)

#: Part of the free memory that a cell may need by estimate.
MEMORY_SHARE = 0.8


@dataclass
class SizeSettings:
    """What to measure. Batch sizes rise, since each cell tells whether the next one fits into time and memory.

    Args:
        widths: factors of `block_out_channels`.
        contender: name in `CONTENDERS`.
        measured_steps: network evaluations of a measured generation. Its time is scaled up to `num_inference_steps`.
        max_seconds: for a training step or a generation. The measurement skips cells that take longer by estimate.
    """

    sample_sizes: Sequence[int] = (32, 64, 128)
    widths: Sequence[int] = (1, 2)
    batch_sizes: Sequence[int] = (1, 4, 16, 64, 256)
    block_out_channels: Sequence[int] = (32, 64, 96, 128)
    layers_per_block: int = 2
    contender: str = "flower_ddim-float32"
    num_inference_steps: int = 20
    measured_steps: int = 2
    max_seconds: float = 10.0
    threads: int = 1

    def __post_init__(self):
        check_counts(self, "layers_per_block", "num_inference_steps", "measured_steps", "threads")
        if list(self.batch_sizes) != sorted(set(self.batch_sizes)):
            raise ValueError(f"`batch_sizes` are {self.batch_sizes}, but must rise.")


def measure_sizes(settings: SizeSettings) -> list[dict]:
    """Measures a cell for every task, size, width and batch size: throughput and peak memory, or why it skipped the cell."""
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    context = multiprocessing.get_context("forkserver")
    # Every cell has a process, and thereby a peak of memory, of its own. The server imports PyTorch for all of them.
    context.set_forkserver_preload(["flower_ddim.benchmarks.torch_contenders", "flower_ddim.training.trainer"])
    cells = []
    for task in ("train", "generate"):
        for sample_size in settings.sample_sizes:
            for width in settings.widths:
                cells += _series(context, settings, task, sample_size, width)
    return cells


def _series(context, settings: SizeSettings, task: str, sample_size: int, width: int) -> list[dict]:
    """Measures cells of rising batch sizes."""
    job = Job(
        settings.contender,
        task,
        sample_size=sample_size,
        block_out_channels=[width * channels for channels in settings.block_out_channels],
        layers_per_block=settings.layers_per_block,
        num_inference_steps=settings.measured_steps,
    )
    cells, last = [], None
    for batch_size in settings.batch_sizes:
        cell = {"task": task, "sample_size": sample_size, "width": width, "batch_size": batch_size}
        reason = _cannot_afford(settings, last, batch_size) if last else None
        if reason:
            cells.append(cell | {"left_out": reason})
            continue
        last = cell | _in_a_process(context, replace(job, batch_size=batch_size))
        repeats = settings.num_inference_steps / settings.measured_steps if task == "generate" else 1
        last["images_per_second"] = batch_size / (repeats * statistics.median(last["seconds"]))
        logger.info(f"{task}: {sample_size} pixels, width ×{width}, batch {batch_size}: {last['seconds'][0]:.2f} s")
        cells.append(last)
    return cells


def _cannot_afford(settings: SizeSettings, last: dict, batch_size: int) -> str | None:
    """Why to skip a cell of more images than the last one, or `None`. Time and memory grow no faster than images do."""
    growth = batch_size / last["batch_size"]
    if growth * last["peak_memory"] > MEMORY_SHARE * psutil.virtual_memory().available:
        return "memory"
    return "time" if growth * statistics.median(last["seconds"]) > settings.max_seconds else None


def _in_a_process(context, job: Job) -> dict:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_cell, args=(job, sender))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    try:
        return receiver.recv()
    except EOFError as error:
        raise ChildProcessError(f"{job} ended without a result: is there enough memory?") from error
    finally:
        process.join()


def _measure_cell(job: Job, sender):
    """Takes two turns, or more within half a second, and sends what they took."""
    turn, _ = make_turn(job)
    start, turns = time.perf_counter(), []
    while len(turns) < 2 or time.perf_counter() - start < 0.5:
        turns.append(turn())
    sender.send({"seconds": [t["seconds"] for t in turns], "peak_memory": turns[-1]["peak_memory"]})
