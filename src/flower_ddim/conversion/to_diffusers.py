"""Exports a model for diffusers alone: our U-Net with the scheduler of diffusers."""

from pathlib import Path

from diffusers import DDIMScheduler

from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline


def export_to_diffusers(pipe: FlowerDDIMPipeline, folder: str | Path):
    """Saves a pipeline with diffusers' `DDIMScheduler`, for programs with a sampling loop of their own.

    `unet/unet_flower_ddim.py` in the folder needs only diffusers. A program that has a copy of it beside it loads
    `FlowerUNet2DModel.from_pretrained(folder, subfolder="unet")` and `DDIMScheduler.from_pretrained(folder,
    subfolder="scheduler")`. This scheduler is exact if the number of steps divides 1,000. The folder still holds our pipeline:
    no pipeline of diffusers knows the channel statistics (`image_mean`, `image_std`) that turn latents into pictures.
    """
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    type(pipe)(pipe.unet, scheduler).save_pretrained(folder)
