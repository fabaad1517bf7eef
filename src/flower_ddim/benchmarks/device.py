"""Measures training and generation on the device that a training takes: the GPU, where there is one."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState

from .contenders import Contender, Job, check_counts
from .torch_contenders import FlowerDDIM, check_loss


#: What computes: the dtype, and whether the network is compiled.
MODES = ("float32", "bfloat16", "float16", "bfloat16-compiled")


@dataclass
class DeviceSettings:
    """What to measure.

    Args:
        steps: training steps in a turn. The loss is waited for at its end only, as the trainer does between lines of its log.
        rounds: turns of each row.
    """

    modes: Sequence[str] = MODES
    train_batch_sizes: Sequence[int] = (64, 256)
    batch_sizes: Sequence[int] = (16, 256)
    num_inference_steps: int = 20
    steps: int = 30
    rounds: int = 3
    threads: int = 1

    def __post_init__(self):
        check_counts(self, "num_inference_steps", "steps", "rounds", "threads")


def measure_device(settings: DeviceSettings) -> dict:
    """Throughput of the book's network at 64×64 pixels: the name of the device, and rows of `training` and `generation`."""
    torch.set_num_threads(settings.threads)
    device = PartialState().device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"name": name, "training": list(_training(settings)), "generation": list(_generation(settings, device))}


def _training(settings: DeviceSettings) -> Iterator[dict]:
    for mode, batch_size in _rows(settings.modes, settings.train_batch_sizes):
        learner = _contender(mode, Job("", "train", batch_size)).learner()

        def turn(learner=learner):
            for _ in range(settings.steps):
                loss, _ = learner.training_step()
            check_loss(loss)

        yield _measured(mode, batch_size, turn, settings.rounds, settings.steps * batch_size)


def _generation(settings: DeviceSettings, device: torch.device) -> Iterator[dict]:
    for mode, batch_size in _rows(settings.modes, settings.batch_sizes):
        job = Job("", "generate", batch_size, num_inference_steps=settings.num_inference_steps)
        yield _measured(mode, batch_size, _contender(mode, job).generate(device), settings.rounds, batch_size)


def _rows(modes: Sequence[str], batch_sizes: Sequence[int]) -> Iterator[tuple[str, int]]:
    return ((mode, batch_size) for mode in modes for batch_size in batch_sizes)


def _contender(mode: str, job: Job) -> FlowerDDIM:
    dtype, _, compiled = mode.partition("-")
    return FlowerDDIM(Contender(mode, "torch_contenders", "FlowerDDIM", dtype, bool(compiled)), job)


def _measured(mode: str, batch_size: int, turn: Callable[[], None], rounds: int, images: int) -> dict:
    turn()  # compiles, and finds memory
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        turn()
        seconds.append(time.perf_counter() - start)
    rates = sorted(images / second for second in seconds)
    row = {"mode": mode, "batch_size": batch_size, "images_per_second": statistics.median(rates)}
    return row | {"slowest": rates[0], "fastest": rates[-1]}
