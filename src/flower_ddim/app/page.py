"""A page to try a pipeline in the browser: generate, watch, interpolate, invert; every picture can be downloaded.

Requests wait in a queue of bounded length, and the page works on one at a time.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import torch
from diffusers import DiffusionPipeline

from ..pipelines.loading import is_student
from ..sampling.solvers import SOLVERS
from .demo import MAX_GUIDANCE, MAX_IMAGES, MAX_SEED, MAX_STEPS, SHOWN_SIDE, Demo, open_photo


MAX_UPLOAD = "5mb"
MAX_WAITING = 16  # requests
KEPT_SECONDS = 1800  # uploads and generated pictures stay on the disk for so long, or up to twice that


def show_value_errors(function: Callable) -> Callable:
    """Wraps a function so that the page shows its ValueErrors as messages. It reports other errors as failures of ours."""
    if inspect.isgeneratorfunction(function):

        def wrapped(*args):
            with _value_errors_shown():
                yield from function(*args)
    else:

        def wrapped(*args):
            with _value_errors_shown():
                return function(*args)

    return functools.wraps(function)(wrapped)


@contextmanager
def _value_errors_shown() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def build_page(pipe: DiffusionPipeline, title: str = "Flowers out of noise") -> gr.Blocks:
    """Builds the page for a pipeline, with its queue; `page.launch(**LAUNCH)` serves it."""
    demo = Demo(pipe)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {title}\nA small diffusion model, DDIM sampling. Every picture can be downloaded.")
        with gr.Tab("Generate"):
            _generate_tab(demo)
        with gr.Tab("Between two seeds"):
            _seeds_tab(demo)
        with gr.Tab("Your photograph"):
            _photo_tab(demo)
    return page.queue(max_size=MAX_WAITING)


# All buttons share one place: without an id Gradio would limit each of them alone.
ONE_AT_A_TIME = {"concurrency_id": "demo", "concurrency_limit": 1}


def _steps_slider(demo: Demo) -> gr.Slider:
    return gr.Slider(1, MAX_STEPS, demo.pipe.default_num_inference_steps, step=1, label="Steps")


def _class_inputs(demo: Demo) -> list[gr.Dropdown | gr.Slider]:
    """A list of names and the strength of guidance, for a model that knows classes; a student has that built in."""
    if not demo.pipe.labels:
        return []
    scale = demo.pipe.unet.config.get("default_guidance_scale", 1.0)
    return [
        gr.Dropdown([("any", None), *demo.pipe.labels], value=None, label="Class", elem_id="class"),
        gr.Slider(
            0,
            MAX_GUIDANCE,
            scale,
            step=0.25,
            label="Guidance (1 is none)",
            elem_id="guidance",
            visible=not is_student(demo.pipe.unet),
        ),
    ]


def _seed(value: int, label: str = "Seed") -> gr.Number:
    return gr.Number(value, label=label, precision=0, minimum=0, maximum=MAX_SEED)


def _gallery(label: str, columns: int, elem_id: str) -> gr.Gallery:
    options = {"format": "png", "object_fit": "contain", "buttons": ["download", "fullscreen"], "height": "auto"}
    return gr.Gallery(label=label, columns=columns, elem_id=elem_id, preview=False, interactive=False, **options)


def _photo(label: str, elem_id: str) -> gr.Image:
    photo = gr.Image(label=label, sources=["upload"], height=200, elem_id=elem_id)
    # Gradio itself says nothing about an upload that is no picture. (From a derived class Gradio would write a file of type hints
    # beside this one.)
    photo.preprocess = lambda upload: None if upload is None else show_value_errors(open_photo)(upload.path)
    return photo


def _generate_tab(demo: Demo):
    with gr.Row():
        with gr.Column(scale=1):
            inputs = [
                _seed(0),
                gr.Slider(1, MAX_IMAGES, 8, step=1, label="Images"),
                _steps_slider(demo),
                gr.Slider(0, 1, 0, step=0.05, label="η (0 is deterministic)"),
                gr.Dropdown(list(SOLVERS), value="ddim", label="Solver"),
                *_class_inputs(demo),
            ]
            button = gr.Button("Generate", variant="primary", elem_id="generate")
        with gr.Column(scale=3):
            gallery = _gallery("Images", 4, "images")
    button.click(show_value_errors(demo.generate), inputs, gallery, api_name="generate", **ONE_AT_A_TIME)


def _seeds_tab(demo: Demo):
    with gr.Row():
        with gr.Column(scale=1):
            seeds = [_seed(0, "From seed"), _seed(1, "To seed")]
            position = gr.Slider(0, 1, 0.5, step=0.01, label="Position", elem_id="position")
            steps = _steps_slider(demo)
            button = gr.Button("Show the whole way", elem_id="way")
        with gr.Column(scale=3):
            image = gr.Image(label="Image", format="png", interactive=False, height=SHOWN_SIDE + 64, elem_id="between")
            gallery = _gallery("The way", 5, "way-images")
    position.release(
        show_value_errors(demo.between_seeds),
        [*seeds, position, steps],
        image,
        api_name="between_seeds",
        **ONE_AT_A_TIME,
        trigger_mode="always_last",
    )
    button.click(
        show_value_errors(demo.way_between_seeds),
        [*seeds, steps],
        gallery,
        api_name="way_between_seeds",
        **ONE_AT_A_TIME,
    )


def _photo_tab(demo: Demo):
    gr.Markdown(
        f"Photographs of at most {MAX_UPLOAD.upper()}. The page crops and shrinks them, and soon deletes them."
    )
    with gr.Row():
        labels = {"photo-a": "Photograph", "photo-b": "Another one"}
        photos = [_photo(label, elem_id) for elem_id, label in labels.items()]
    steps = _steps_slider(demo)
    with gr.Row():
        rebuild = gr.Button("Find its noise and rebuild it", variant="primary", elem_id="rebuild")
        blend = gr.Button("Blend it with the other one", elem_id="blend")
    rebuilt = _gallery("Rebuilt", 3, "rebuilt")
    blended = _gallery("From one to the other", 5, "blended")
    rebuild.click(show_value_errors(demo.rebuild), [photos[0], steps], rebuilt, api_name="rebuild", **ONE_AT_A_TIME)
    blend.click(show_value_errors(demo.blend), [*photos, steps], blended, api_name="blend", **ONE_AT_A_TIME)


# Without fonts from elsewhere: the page loads everything from its own server.
LAUNCH = {
    "max_file_size": MAX_UPLOAD,
    "footer_links": [],
    "theme": gr.themes.Default(font=["ui-sans-serif", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
}


def serve_folder(folder: str | Path):
    """Serves the page for a folder of a pipeline and its code, on a GPU if there is one. The `app.py` of a Space calls this."""
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    build_page(pipe.to("cuda" if torch.cuda.is_available() else "cpu")).launch(**LAUNCH)
