"""What the page can do, without a browser; test_browser.py has one."""

import threading

import gradio as gr
import numpy as np
import pytest
import torch
from conftest import make_labelled_unet, make_unet
from PIL import Image, ImageOps

from flower_ddim import PRETRAINED, FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.app.demo import MAX_PIXELS, SHOWN_SIDE, Demo, open_photo
from flower_ddim.app.page import build_page, show_value_errors
from flower_ddim.sampling.solvers import SOLVERS


@pytest.fixture(scope="module")
def pipe():
    return FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())


@pytest.fixture(scope="module")
def demo(pipe):
    return Demo(pipe)


def photo(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def distance(a, b):
    """Mean absolute difference of two pictures, in grey levels."""
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).mean()


def test_generation_is_shown_from_noise_to_picture(demo, pipe):
    frames = list(demo.generate(3, 2, 25))
    assert len(frames) == 9 and all(len(frame) == 2 for frame in frames)
    assert frames[-1][0].size == (SHOWN_SIDE, SHOWN_SIDE)
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    for image, original in zip(frames[-1], pipe(2, generator=seeds, num_inference_steps=25).images, strict=True):
        assert distance(image, original.resize(image.size, Image.Resampling.BICUBIC)) == 0
    assert distance(frames[0][0], frames[-1][0]) > 10


def test_the_page_of_a_model_with_classes_offers_them():
    unet = make_labelled_unet(default_num_inference_steps=4, default_guidance_scale=2.0)
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler())
    inputs = {block.label: block for block in build_page(pipe).blocks.values() if getattr(block, "label", None)}
    assert [value for _, value in inputs["Class"].choices][1:] == list(pipe.labels)
    assert inputs["Steps"].value == 4 and inputs["Guidance (1 is none)"].value == 2.0
    demo = Demo(pipe)
    *_, named = demo.generate(3, 1, 4, 0, "ddim", "rose", 2.0)
    *_, plain = demo.generate(3, 1, 4, 0, "ddim", None, 2.0)
    generator = torch.Generator().manual_seed(3)
    expected = pipe(generator=generator, class_labels="rose").images[0]
    assert distance(named[0], expected.resize(named[0].size, Image.Resampling.BICUBIC)) == 0
    assert distance(named[0], plain[0]) > 1
    with pytest.raises(ValueError, match="guidance is 11, but must lie between 0 and 10"):
        next(demo.generate(3, 1, 4, 0, "ddim", "rose", 11))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_generates(demo, pipe, solver):
    steps_before = pipe.scheduler.num_inference_steps
    *_, images = demo.generate(0, 1, 4, 0, solver)
    assert images[0].size == (SHOWN_SIDE, SHOWN_SIDE)
    assert type(pipe.scheduler) is FlowerDDIMScheduler and pipe.scheduler.num_inference_steps == steps_before != 4


def test_whoever_stops_watching_stops_the_work(demo):
    calls = []
    hook = demo.pipe.unet.register_forward_pre_hook(lambda *_: calls.append(threading.get_ident()))
    watching = demo.generate(0, 1, 100)
    next(watching)
    watching.close()
    hook.remove()
    assert (
        calls == [threading.get_ident()] * 10
    )  # the first of ten pictures, and nothing ahead of it in another thread


def test_the_ends_of_the_way_are_the_seeds(demo):
    *_, (a,) = demo.generate(5, 1, 6)
    *_, (b,) = demo.generate(9, 1, 6)
    way = demo.way_between_seeds(5, 9, 6)
    for image, expected in ((way[0], a), (way[-1], b)):
        assert distance(image, expected) < 1
    for position, expected in ((0, a), (1, b), (0.5, way[4])):
        assert distance(demo.between_seeds(5, 9, position, 6), expected) < 1
    assert distance(a, b) > 10


def test_photographs_are_inverted_rebuilt_and_blended(demo):
    trained = Demo(FlowerDDIMPipeline.from_pretrained(PRETRAINED))
    flower = Image.radial_gradient("L").convert("RGB")
    (seen, _), (noise, _), (rebuilt, caption) = trained.rebuild(flower, 10)
    error = distance(seen, rebuilt) / 255
    assert error < 0.05 < distance(seen, noise) / 255
    assert float(caption.removeprefix("rebuilt, error ")) == pytest.approx(error, abs=0.005)
    other = ImageOps.invert(flower)
    way = trained.blend(flower, other, 10)
    assert len(way) == 9
    for end, picture in ((way[0], flower), (way[-1], other)):
        (original, _), *_ = trained.rebuild(picture, 1)
        assert distance(end, original) < 0.1 * 255 < distance(way[4], original)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: next(s.generate(-1, 1, 1)), "seed is -1"),
        (lambda s: next(s.generate(0, 17, 1)), "number of images is 17"),
        (lambda s: next(s.generate(0, 1, 101)), "number of steps is 101"),
        (lambda s: next(s.generate(0, 1, 1.5)), "whole number"),
        (lambda s: next(s.generate(0, None, 1)), "number of images is None"),
        (lambda s: next(s.generate(0, 1, 1, 2)), "eta"),
        (lambda s: next(s.generate(0, 1, 1, 0.5, "euler")), "η belongs to ddim"),
        (lambda s: next(s.generate(0, 1, 1, 0, "Runge-Kutta")), "There is no solver"),
        (lambda s: s.between_seeds(0, 1, 1.5, 1), "position is 1.5"),
        (lambda s: s.way_between_seeds(0, 1, 1000), "number of steps"),
        (lambda s: s.rebuild(None, 1), "choose one first"),
        (lambda s: s.blend(photo(1), None, 1), "choose one first"),
        (lambda s: s.blend(photo(1), photo(2), 1e9), "number of steps"),
    ],
)
def test_a_request_out_of_bounds_is_refused_with_a_message(demo, call, message):
    with pytest.raises(ValueError, match=message):
        call(demo)
    with pytest.raises(gr.Error, match=message):
        show_value_errors(call)(demo)


def test_only_pictures_of_a_bounded_size_are_opened(tmp_path):
    picture = tmp_path / "picture.png"
    photo(1).save(picture)
    assert open_photo(picture).size == (50, 40)
    photo(1).save(tmp_path / "phone.avif")
    assert open_photo(tmp_path / "phone.avif").size == (50, 40)
    photo(1).save(tmp_path / "other.eps")  # Pillow reads these with Ghostscript, if that is installed
    with pytest.raises(ValueError, match="is no picture that can be read"):
        open_photo(tmp_path / "other.eps")
    for name, content in (("text.png", b"hello"), ("cut.png", picture.read_bytes()[:600]), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is no picture that can be read"):
            open_photo(tmp_path / name)
    Image.new("L", (MAX_PIXELS // 1000 + 1, 1000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="30,001,000 pixels"):
        open_photo(tmp_path / "large.png")


def test_the_buttons_share_one_place_in_the_queue(pipe):
    page = build_page(pipe)
    assert len(page.fns) == 5
    assert {(fn.concurrency_id, fn.concurrency_limit) for fn in page.fns.values()} == {("demo", 1)}
