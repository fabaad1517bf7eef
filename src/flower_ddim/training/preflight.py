"""What a training would be, told before it: how many steps, when the first samples come, and roughly how long it takes."""

import time
from pathlib import Path

import torch

from ..data.folders import skipped_by_type
from .trainer import Trainer


def preflight(trainer: Trainer) -> dict:
    """The options of a run and the size of its task, see [`flower_ddim.training.setup.describe`], and its course in time.

    The time is that of one step on noise, without a compiler and without what a run does besides; a rough one.
    """
    config, pictures = trainer.config, trainer.pictures
    folder = Path(config.train_data_dir or config.dataset_name)
    seconds = _seconds_of_a_step(trainer)
    course = {
        "pictures": pictures.num_train,
        "pictures_for_validation": pictures.num_validation,
        "files_skipped": skipped_by_type(folder) if folder.is_dir() else {},
        "steps_per_epoch": trainer.steps_per_epoch,
        "first_samples_at_step": _first_samples(trainer),
        "rough_seconds_per_step": round(seconds, 3),
        "rough_hours": round(seconds * trainer.total_steps / 3600, 2),
    }
    if config.max_train_minutes:
        course["rough_hours"] = min(course["rough_hours"], round(config.max_train_minutes / 60, 2))
    return trainer.description | {"course": course}


def _first_samples(trainer: Trainer) -> int:
    config, last = trainer.config, trainer.total_steps
    every = [config.save_images_steps, config.save_images_epochs * (trainer.steps_per_epoch or last)]
    grown = sum(config.growth_steps or [])  # until then it generates noise, of which no samples are written
    return min([last, *(step * (1 + grown // step) for step in every if step)])


def _seconds_of_a_step(trainer: Trainer) -> float:
    config, learner = trainer.config, trainer.learner
    learner.train_mode()
    unet = learner.raw_unet
    shape = (config.train_batch_size, unet.config.in_channels, config.resolution, config.resolution)
    images, noise = (torch.randn(shape, device=trainer.accelerator.device) for _ in range(2))
    diffusion_time = torch.rand(len(images), device=images.device)
    for _ in range(2):  # the second time everything is warm
        start = time.perf_counter()
        with trainer.accelerator.autocast():
            loss = learner.loss(unet, images, noise, diffusion_time)
        loss.backward()
        loss.item()  # waits for the device
    return (time.perf_counter() - start) * config.gradient_accumulation_steps
