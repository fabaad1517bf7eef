"""The pictures of a model card, which its own model generates."""

from pathlib import Path

from diffusers.utils import make_image_grid

from ..pipelines.loading import is_student
from ..pipelines.portable import PortablePipeline
from ..sampling.generate import COMPARED_STEPS, noise_of_seeds
from ..storage.files import replacing


IMAGES = ("samples", "steps", "interpolation")


def image_names(prefix: str = "") -> dict[str, str]:
    """File names of the pictures by [`IMAGES`]."""
    return {name: f"{prefix}{name}.png" for name in IMAGES}


def write_card_images(pipe: PortablePipeline, folder: str | Path, prefix: str = "") -> dict[str, str]:
    """Generates the pictures of a card into its folder; returns their file names by [`IMAGES`], which begin with `prefix`."""
    quiet = type(pipe)(pipe.unet, pipe.scheduler)
    quiet.set_progress_bar_config(disable=True)
    names = image_names(prefix)
    for name, image in _generated(quiet).items():
        with replacing(Path(folder) / names[name]) as unfinished:
            image.save(unfinished)
    return names


def _generated(pipe: PortablePipeline) -> dict:
    """A grid of samples, the same noise in different numbers of steps, or in each step of a student, and interpolations."""
    latents = noise_of_seeds(pipe, range(16))
    cell = max(96, *pipe.latent_shape[1:])
    samples = pipe(latents=latents).images
    if is_student(pipe.unet):
        columns = [pipe.postprocess(state.predicted) for state in pipe.denoise(latents[:4])]
    else:
        columns = [pipe(latents=latents[:4], num_inference_steps=number).images for number in COMPARED_STEPS]
    by_steps = [image for row in zip(*columns, strict=True) for image in row]
    strips = [image for i in range(0, 6, 2) for image in pipe.interpolate(*latents[i : i + 2], num_images=11).images]
    return {
        "samples": make_image_grid(samples, rows=2, cols=8, resize=cell),
        "steps": make_image_grid(by_steps, rows=4, cols=len(columns), resize=cell),
        "interpolation": make_image_grid(strips, rows=3, cols=11, resize=cell),
    }
