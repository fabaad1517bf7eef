"""What the page can do, without the page.

Strangers may use it, so every request has bounds.
"""

import math
from collections.abc import Iterator

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..data.picture_files import open_picture
from ..sampling.solvers import check_eta, with_solver


MAX_IMAGES = 16
MAX_STEPS = 100
MAX_GUIDANCE = 10
MAX_SEED = 2**31 - 1
MAX_PIXELS = 30_000_000  # of an upload; even a small file can hold more
FRAMES = 10  # pictures shown on the way through a generation
PATH_IMAGES = 9
SHOWN_SIDE = 256  # pixels; the page enlarges smaller pictures by a whole factor


class Demo:
    """Answers the requests of the page. A number out of bounds is a ValueError that says what is allowed."""

    def __init__(self, pipe: DiffusionPipeline):
        self.pipe = pipe

    def generate(
        self,
        seed: int,
        num_images: int,
        num_inference_steps: int,
        eta: float = 0.0,
        solver: str = "ddim",
        class_label: str | None = None,
        guidance_scale: float | None = None,
    ) -> Iterator[list[Image.Image]]:
        """Generates images with the seeds `seed`, `seed` + 1, …; yields them several times on the way from the noise."""
        seed, num_images = _whole("seed", seed, 0, MAX_SEED), _whole("number of images", num_images, 1, MAX_IMAGES)
        steps = _whole("number of steps", num_inference_steps, 1, MAX_STEPS)
        check_eta(_within("η (eta)", eta, 0, 1), solver)
        if class_label is None:
            guidance_scale = None  # of what the slider says there is nothing to guide to
        elif guidance_scale is not None:
            _within("guidance", guidance_scale, 0, MAX_GUIDANCE)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(num_images)]
        latents = torch.stack([torch.randn(self.pipe.latent_shape, generator=generator) for generator in generators])
        pipe = with_solver(self.pipe, solver)
        every = math.ceil(steps / FRAMES)
        for state in pipe.denoise(latents, steps, eta, generators, class_label, guidance_scale):
            number = state.step_index + 1
            if number % every == 0 or number == pipe.num_timesteps:
                yield _enlarged(pipe.postprocess(state.latents))

    def between_seeds(self, seed_a: int, seed_b: int, position: float, num_inference_steps: int) -> Image.Image:
        """Generates the image at `position`, from 0 to 1, on the way from the noise of one seed to that of another."""
        a, b = self._noise(seed_a), self._noise(seed_b)
        angle = _within("position", position, 0, 1) * (math.pi / 2)
        latents = math.cos(angle) * a + math.sin(angle) * b
        steps = _whole("number of steps", num_inference_steps, 1, MAX_STEPS)
        return _enlarged(with_solver(self.pipe, "ddim")(latents=latents[None], num_inference_steps=steps).images)[0]

    def way_between_seeds(self, seed_a: int, seed_b: int, num_inference_steps: int) -> list[Image.Image]:
        """Generates images all along that way."""
        steps = _whole("number of steps", num_inference_steps, 1, MAX_STEPS)
        noises = self._noise(seed_a), self._noise(seed_b)
        way = with_solver(self.pipe, "ddim").interpolate(*noises, num_images=PATH_IMAGES, num_inference_steps=steps)
        return _enlarged(way.images)

    def rebuild(self, photo: Image.Image | None, num_inference_steps: int) -> list[tuple[Image.Image, str]]:
        """Shows a photograph as the model sees it, the noise behind it, and the image from that noise, each with a caption."""
        steps = _whole("number of steps", num_inference_steps, 1, MAX_STEPS)
        pipe = with_solver(self.pipe, "ddim")
        seen = pipe.postprocess(pipe.preprocess(_given(photo)), "np")
        noise = pipe.invert([photo], num_inference_steps=steps)
        rebuilt = pipe(latents=noise, num_inference_steps=steps, output_type="np").images
        noise_shown = (noise / 6 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()  # ±3 standard deviations
        pictures = [image for part in (seen, noise_shown, rebuilt) for image in pipe.numpy_to_pil(part)]
        error = abs(rebuilt - seen).mean()
        captions = "as the model sees it", f"its noise, deviation {noise.std():.2f}", f"rebuilt, error {error:.3f}"
        return list(zip(_enlarged(pictures), captions, strict=True))

    def blend(
        self, photo_a: Image.Image | None, photo_b: Image.Image | None, num_inference_steps: int
    ) -> list[Image.Image]:
        """Generates images on the way from the noise behind one photograph to that behind another."""
        steps = _whole("number of steps", num_inference_steps, 1, MAX_STEPS)
        pipe = with_solver(self.pipe, "ddim")
        noises = pipe.invert([_given(photo_a), _given(photo_b)], num_inference_steps=steps)
        way = pipe.interpolate(noises, num_images=PATH_IMAGES, rescale=True, num_inference_steps=steps)
        return _enlarged(way.images)

    def _noise(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(_whole("seed", seed, 0, MAX_SEED))
        return torch.randn(self.pipe.latent_shape, generator=generator)


def _within(name: str, value: float | None, low: float, high: float) -> float:
    if value is None or not low <= value <= high:
        raise ValueError(f"The {name} is {value}, but must lie between {low} and {high:,}.")
    return value


def _whole(name: str, value: float | None, low: int, high: int) -> int:
    if _within(name, value, low, high) != int(value):
        raise ValueError(f"The {name} is {value}, but must be a whole number.")
    return int(value)


def _given(photo: Image.Image | None) -> Image.Image:
    if photo is None:
        raise ValueError("There is no photograph yet: choose one first.")
    return photo


def _enlarged(images: list[Image.Image]) -> list[Image.Image]:
    factor = max(1, SHOWN_SIDE // max(images[0].size))
    return [image.resize((factor * image.width, factor * image.height), Image.Resampling.BICUBIC) for image in images]


def open_photo(path: str) -> Image.Image:
    """Opens an uploaded file.

    Raises:
        ValueError: if it is no picture, a damaged one, or one of too many pixels.
    """
    try:
        with open_picture(path) as image:
            count = image.width * image.height
            if count <= MAX_PIXELS:
                image.load()
                return image
    except Image.DecompressionBombError as error:
        raise ValueError(f"This picture is too large; please send one of at most {MAX_PIXELS:,} pixels.") from error
    except Exception as error:  # Pillow's decoders raise whatever their format suggests
        raise ValueError("This file is no picture that can be read: please send a JPEG, PNG or WebP.") from error
    raise ValueError(f"This picture has {count:,} pixels; please send one of at most {MAX_PIXELS:,}.")
