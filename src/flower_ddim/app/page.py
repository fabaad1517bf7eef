"""A page to play with a pipeline in the browser: generate, watch, interpolate, invert; every picture can be downloaded.

Strangers may use it: what one request may ask for is bounded, requests wait in a queue of bounded length, and one is worked on at
a time.
"""

import functools
import inspect
import math
import queue
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import torch
from diffusers import DiffusionPipeline
from PIL import Image, UnidentifiedImageError

from ..sampling.solvers import SOLVERS, check_eta, with_solver


MAX_IMAGES = 16
MAX_STEPS = 100
MAX_SEED = 2**31 - 1
MAX_UPLOAD = "5mb"
MAX_PIXELS = 30_000_000  # of an uploaded picture, whose file may be small all the same
PHOTO_FORMATS = ("JPEG", "PNG", "WEBP")  # of others Pillow would call other programs to read
MAX_WAITING = 16  # requests
KEPT_SECONDS = 1800  # for which uploads and generated pictures stay on the disk, or up to twice that
FRAMES = 10  # pictures shown on the way through a generation
PATH_IMAGES = 9
SHOWN_SIDE = 256  # pixels; smaller pictures are enlarged by a whole factor


class Studio:
    """What the page can do, without the page. A number out of bounds is a ValueError that says what is allowed."""

    def __init__(self, pipe: DiffusionPipeline):
        self.pipe = pipe

    def generate(
        self, seed: int, num_images: int, num_inference_steps: int, eta: float = 0.0, solver: str = "ddim"
    ) -> Iterator[list[Image.Image]]:
        """Generates images with the seeds `seed`, `seed` + 1, …; yields them on the way from noise to picture."""
        seed, num_images = _whole("seed", seed, 0, MAX_SEED), _whole("number of images", num_images, 1, MAX_IMAGES)
        num_inference_steps = _whole("number of steps", num_inference_steps, 1, MAX_STEPS)
        check_eta(eta, solver)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(num_images)]
        every = math.ceil(num_inference_steps / FRAMES)
        pipe = with_solver(self.pipe, solver)

        def show_some(show, _, step, timestep, tensors):
            if (step + 1) % every == 0 and step + 1 < num_inference_steps:
                show(_enlarged(pipe.postprocess(tensors["latents"])))
            return tensors

        def work(show):
            images = pipe(
                num_images,
                generator=generators,
                num_inference_steps=num_inference_steps,
                eta=eta,
                callback_on_step_end=functools.partial(show_some, show),
            ).images
            show(_enlarged(images))

        yield from _shown_by(work)

    def between_seeds(self, seed_a: int, seed_b: int, position: float, num_inference_steps: int) -> Image.Image:
        """The image at `position`, from 0 to 1, on the way from the noise of one seed to that of another."""
        a, b = self._noise(seed_a), self._noise(seed_b)
        angle = _within("position", position, 0, 1) * (math.pi / 2)
        latents = math.cos(angle) * a + math.sin(angle) * b
        steps = _whole("number of steps", num_inference_steps, 1, MAX_STEPS)
        return _enlarged(with_solver(self.pipe, "ddim")(latents=latents[None], num_inference_steps=steps).images)[0]

    def way_between_seeds(self, seed_a: int, seed_b: int, num_inference_steps: int) -> list[Image.Image]:
        """Images all along that way."""
        steps = _whole("number of steps", num_inference_steps, 1, MAX_STEPS)
        noises = self._noise(seed_a), self._noise(seed_b)
        way = with_solver(self.pipe, "ddim").interpolate(*noises, num_images=PATH_IMAGES, num_inference_steps=steps)
        return _enlarged(way.images)

    def rebuild(self, photo: Image.Image | None, num_inference_steps: int) -> list[tuple[Image.Image, str]]:
        """A photograph as the model sees it, the noise found for it, and what is generated from that, each with a caption."""
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
        """Images on the way from one photograph to another, through the noise found for each."""
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


class _Abandoned(Exception):
    """Nobody looks at the generation any more."""


def _shown_by(work: Callable[[Callable], None]) -> Iterator:
    """Yields what `work(show)` shows while it goes on in another thread, which ends with the iteration."""
    shown, abandoned, done = queue.SimpleQueue(), threading.Event(), object()

    def show(item):
        if abandoned.is_set():
            raise _Abandoned
        shown.put((item, None))

    def run():
        try:
            work(show)
            shown.put((done, None))
        except Exception as error:
            shown.put((done, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item, error = shown.get()
            if error is not None:
                raise error
            if item is done:
                return
            yield item
    finally:
        abandoned.set()
        thread.join()


def open_photo(path: str) -> Image.Image:
    """Opens an uploaded file.

    Raises:
        ValueError: if it is no picture, a damaged one, or one of too many pixels.
    """
    try:
        with Image.open(path, formats=PHOTO_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"This picture has {image.width * image.height:,} pixels; please send one of at most {MAX_PIXELS:,}."
                )
            image.load()
            return image
    except Image.DecompressionBombError as error:
        raise ValueError(f"This picture is too large; please send one of at most {MAX_PIXELS:,} pixels.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError("This file is no picture that can be read: please send a JPEG, PNG or WebP.") from error


def polite(function: Callable) -> Callable:
    """The same function, whose ValueErrors the page shows as a message; anything else it reports as a failure of ours."""
    if inspect.isgeneratorfunction(function):

        def wrapped(*args):
            with _explained():
                yield from function(*args)
    else:

        def wrapped(*args):
            with _explained():
                return function(*args)

    return functools.wraps(function)(wrapped)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def build_page(pipe: DiffusionPipeline, title: str = "Flowers out of noise") -> gr.Blocks:
    """The page for a pipeline, with its queue; `page.launch(**LAUNCH)` serves it."""
    studio = Studio(pipe)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {title}\nA small diffusion model, DDIM sampling. Every picture can be downloaded.")
        with gr.Tab("Generate"):
            _generate_tab(studio)
        with gr.Tab("Between two seeds"):
            _seeds_tab(studio)
        with gr.Tab("Your photograph"):
            _photo_tab(studio)
    return page.queue(max_size=MAX_WAITING)


# What the buttons share: left to itself, Gradio limits each of them alone.
ONE_AT_A_TIME = {"concurrency_id": "studio", "concurrency_limit": 1}


def _steps_slider() -> gr.Slider:
    return gr.Slider(1, MAX_STEPS, 20, step=1, label="Steps")


def _seed(value: int, label: str = "Seed") -> gr.Number:
    return gr.Number(value, label=label, precision=0, minimum=0, maximum=MAX_SEED)


def _gallery(label: str, columns: int, elem_id: str) -> gr.Gallery:
    options = {"format": "png", "object_fit": "contain", "buttons": ["download", "fullscreen"], "height": "auto"}
    return gr.Gallery(label=label, columns=columns, elem_id=elem_id, preview=False, interactive=False, **options)


def _photo(label: str, elem_id: str) -> gr.Image:
    photo = gr.Image(label=label, sources=["upload"], height=200, elem_id=elem_id)
    # Gradio's own way of opening an upload ends without a word where that is no picture. (A derived class would make Gradio write
    # a file of type hints beside this one.)
    photo.preprocess = lambda upload: None if upload is None else polite(open_photo)(upload.path)
    return photo


def _generate_tab(studio: Studio):
    with gr.Row():
        with gr.Column(scale=1):
            inputs = [
                _seed(0),
                gr.Slider(1, MAX_IMAGES, 8, step=1, label="Images"),
                _steps_slider(),
                gr.Slider(0, 1, 0, step=0.05, label="η (0 is deterministic)"),
                gr.Dropdown(list(SOLVERS), value="ddim", label="Solver"),
            ]
            button = gr.Button("Generate", variant="primary", elem_id="generate")
        with gr.Column(scale=3):
            gallery = _gallery("Images", 4, "images")
    button.click(polite(studio.generate), inputs, gallery, api_name="generate", **ONE_AT_A_TIME)


def _seeds_tab(studio: Studio):
    with gr.Row():
        with gr.Column(scale=1):
            seeds = [_seed(0, "From seed"), _seed(1, "To seed")]
            position = gr.Slider(0, 1, 0.5, step=0.01, label="Position", elem_id="position")
            steps = _steps_slider()
            button = gr.Button("Show the whole way", elem_id="way")
        with gr.Column(scale=3):
            image = gr.Image(label="Image", format="png", interactive=False, height=SHOWN_SIDE + 64, elem_id="between")
            gallery = _gallery("The way", 5, "way-images")
    position.release(
        polite(studio.between_seeds),
        [*seeds, position, steps],
        image,
        api_name="between_seeds",
        **ONE_AT_A_TIME,
        trigger_mode="always_last",
    )
    button.click(
        polite(studio.way_between_seeds), [*seeds, steps], gallery, api_name="way_between_seeds", **ONE_AT_A_TIME
    )


def _photo_tab(studio: Studio):
    gr.Markdown(
        f"Photographs of at most {MAX_UPLOAD.upper()}. They are cut to the middle, made small, and soon deleted."
    )
    with gr.Row():
        labels = {"photo-a": "Photograph", "photo-b": "Another one"}
        photos = [_photo(label, elem_id) for elem_id, label in labels.items()]
    steps = _steps_slider()
    with gr.Row():
        rebuild = gr.Button("Find its noise and rebuild it", variant="primary", elem_id="rebuild")
        blend = gr.Button("Blend it with the other one", elem_id="blend")
    rebuilt = _gallery("Rebuilt", 3, "rebuilt")
    blended = _gallery("From one to the other", 5, "blended")
    rebuild.click(polite(studio.rebuild), [photos[0], steps], rebuilt, api_name="rebuild", **ONE_AT_A_TIME)
    blend.click(polite(studio.blend), [*photos, steps], blended, api_name="blend", **ONE_AT_A_TIME)


# No fonts from elsewhere: the page asks nobody but its own server.
LAUNCH = {
    "max_file_size": MAX_UPLOAD,
    "footer_links": [],
    "theme": gr.themes.Default(font=["ui-sans-serif", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
}


def serve_folder(folder: str | Path):
    """Serves the page for a pipeline's folder that comes with its code: what an exported Space does."""
    build_page(DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)).launch(**LAUNCH)
