"""A model for diffusers alone: our U-Net beside diffusers' own scheduler."""

from pathlib import Path

from diffusers import DDIMScheduler

from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline


def export_to_diffusers(pipe: FlowerDDIMPipeline, folder: str | Path):
    """Saves a pipeline with diffusers' `DDIMScheduler`, for a loop of one's own.

    `unet/unet_flower_ddim.py` in the folder needs only diffusers. Copied beside a program it gives
    `FlowerUNet2DModel.from_pretrained(folder, subfolder="unet")`, to go with `DDIMScheduler.from_pretrained(folder,
    subfolder="scheduler")`, which is exact where the number of steps divides 1,000. The folder still holds our pipeline, because no
    pipeline of diffusers knows the channel statistics (`image_mean`, `image_std`) that turn what the network generates into
    pictures.
    """
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    type(pipe)(pipe.unet, scheduler).save_pretrained(folder)
