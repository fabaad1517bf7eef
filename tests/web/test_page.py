"""The page in Debian's Chromium, driven by Playwright, on a server of static files."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import make_labelled_unet, make_unet, seeds
from hub_server import run_hub_script
from page import CDN, assert_alike, expected, generated, give_package, pipeline, pixels_of, settled
from PIL import Image
from web_server import PACKAGES, RUNTIME, needs_packages

from flower_ddim.web.serving import ISOLATION, serving
from flower_ddim.web.site import write_site


pytestmark = [pytest.mark.browser, needs_packages]


def test_a_seed_shows_the_picture_of_the_pipeline(visit, page_address, page_pipe):
    page = visit(page_address)
    assert settled(page) == "Ready." and page.inner_text("#name") == "model" and page.input_value("#steps") == "20"
    for name, value in (("seed", 7), ("number", 2), ("steps", 5)):
        page.fill(f"#{name}", str(value))
    page.click("#generate")
    assert_alike(generated(page), expected(page_pipe, 7, 8, num_inference_steps=5))
    assert "ms" in page.inner_text("#status")
    page.fill("#eta", "1")
    page.press("#eta", "Enter")
    assert_alike(generated(page), expected(page_pipe, 7, 8, num_inference_steps=5, eta=1.0))


def test_a_link_shows_the_same_pictures_again(visit, page_address):
    page = visit(page_address)
    settled(page)
    page.fill("#number", "1")
    page.click("#die")
    (first,) = generated(page)
    link = page.get_attribute("#share", "href")
    assert f"seed={page.input_value('#seed')}" in link and page.url.endswith(link)
    again = visit(f"{page_address}/{link}")
    assert_alike(generated(again), [first])


def test_the_way_between_two_pictures_is_that_of_interpolate(visit, page_address, page_pipe):
    page = visit(f"{page_address}/#seed=7&number=2&steps=3")
    generated(page)
    page.locator("#way").evaluate("way => { way.value = 50; way.dispatchEvent(new Event('input')); }")
    walk = page.locator("#walk")
    page.wait_for_function("document.querySelector('#walk').width === 16")
    noises = torch.stack([torch.randn(3, 16, 16, generator=generator) for generator in seeds(7, 8)])
    middle = page_pipe.interpolate(noises, num_images=3, num_inference_steps=3, output_type="np").images[1]
    assert_alike([pixels_of(page, walk)], [(255 * middle).round()])
    page.click("#loop")
    page.wait_for_function("document.querySelector('#way').value == 20")
    page.click("#loop")
    page.wait_for_function("document.querySelector('#loop').ariaPressed === 'false'")


def test_every_step_can_be_looked_into(visit, page_address, page_pipe):
    page = visit(f"{page_address}/#seed=7&number=1&steps=4")
    generated(page)
    page.click("#inside")
    page.wait_for_function("document.querySelectorAll('#states tbody tr').length === 4")
    assert page.locator("#states tbody tr").first.inner_text().split()[:4] == ["1", "1.000", "0.020", "1.000"]
    latents = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    states = list(page_pipe.denoise(latents, 4))
    shown = [pixels_of(page, canvas) for canvas in page.locator("#states canvas").all()]
    parts = [part for state in states for part in (state.noisy, state.predicted)]
    assert_alike(shown, [(255 * page_pipe.postprocess(part, "np")[0]).round() for part in parts])


def test_a_picture_is_saved(visit, page_address):
    page = visit(f"{page_address}/#seed=7&number=1&steps=2")
    (shown,) = generated(page)
    with page.expect_download() as download:
        page.click("text=Save 7")
    assert download.value.suggested_filename == "seed-7.png"
    saved = np.asarray(Image.open(io.BytesIO(download.value.path().read_bytes())).convert("RGB"))
    assert np.array_equal(saved, shown)


def test_threads_need_the_headers_and_pictures_do_not(visit, page_folder, page_pipe):
    with serving(page_folder, ISOLATION) as address:
        page = visit(f"{address}/#seed=7&number=1&steps=2")
        assert page.evaluate("crossOriginIsolated")
        assert_alike(generated(page), expected(page_pipe, 7, num_inference_steps=2))


def test_in_a_frame_of_another_site_there_is_one_thread_and_the_same_picture(visit, page_folder, page_pipe, tmp_path):
    with serving(page_folder, ISOLATION) as inside, serving(tmp_path) as outside:
        inside = inside.replace("127.0.0.1", "localhost")
        (tmp_path / "index.html").write_text(f"<iframe src='{inside}/#seed=7&number=1&steps=2' width=900></iframe>")
        page = visit(outside, strangers=[inside])
        frame = page.frame_locator("iframe")
        frame.locator("#status", has_text="takes").wait_for()
        assert frame.locator("body").evaluate("() => crossOriginIsolated") is False
        assert_alike(
            [pixels_of(page, frame.locator("#pictures canvas"))], expected(page_pipe, 7, num_inference_steps=2)
        )


def test_classes_and_guidance(visit, tmp_path):
    pipe = pipeline(make_labelled_unet(default_guidance_scale=2.1))
    write_site(pipe, tmp_path, RUNTIME)
    with serving(tmp_path) as address:
        page = visit(f"{address}/#seed=7&number=1&steps=3")
        (without,) = generated(page)
        assert_alike([without], expected(pipe, 7, num_inference_steps=3))
        page.select_option("#class", label="Rose hip")
        page.click("#generate")
        (named,) = generated(page)
        assert_alike([named], expected(pipe, 7, num_inference_steps=3, class_labels="rose hip"))
        assert np.abs(named - without).mean() > 1
        again = visit(f"{address}/{page.get_attribute('#share', 'href')}")
        assert_alike(generated(again), [named])


def test_a_student_takes_its_own_steps(visit, tmp_path):
    student = {"distilled_guidance_scale": 2.0, "default_num_inference_steps": 2}
    pipe = pipeline(make_labelled_unet(**student))
    write_site(pipe, tmp_path, RUNTIME)
    with serving(tmp_path) as address:
        page = visit(f"{address}/#seed=7&number=1&class=1&steps=50&guidance=9")
        assert_alike(generated(page), expected(pipe, 7, class_labels=1))
        assert "steps" not in page.get_attribute("#share", "href")
        assert not page.is_visible("#steps") and not page.is_visible("#guidance") and page.is_visible("#class")


def test_only_the_newest_request_counts(visit, page_address, page_pipe):
    """Impatient clicks do not queue, a loop ends with whatever is asked next, and there is never more than one."""
    page = visit(f"{page_address}/#seed=7&number=2&steps=40")
    generated(page)
    for seed in (1, 2, 3):
        page.fill("#seed", str(seed))
        page.press("#seed", "Enter")
    assert_alike(generated(page), expected(page_pipe, 3, 4, num_inference_steps=40))
    for _ in range(3):
        page.click("#loop")
    page.wait_for_function("document.querySelector('#way').value >= 10")
    assert page.get_attribute("#loop", "aria-pressed") == "true"
    page.fill("#seed", "no number")
    page.press("#seed", "Enter")
    page.locator("#error", has_text="The seed must be").wait_for()
    page.wait_for_function("document.querySelector('#loop').ariaPressed === 'false'")
    assert page.is_visible("#error")
    page.fill("#seed", "5")
    page.fill("#number", "1")
    page.click("#generate")
    generated(page)
    assert page.locator("#walk").evaluate("canvas => canvas.width") == 1  # nothing is left of an earlier walk


def test_a_telephone_shows_all_of_it_and_axe_finds_nothing(visit, page_address):
    page = visit(f"{page_address}/#seed=7&number=3&steps=2", viewport={"width": 360, "height": 700})
    generated(page)
    page.click("#inside")
    page.wait_for_function("document.querySelectorAll('#states tbody tr').length === 2")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    page.add_script_tag(path=str(PACKAGES / "axe-core" / "axe.min.js"))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("axe.run()")["violations"]
        assert found == [], json.dumps(found, indent=1)[:3000]


def test_the_keyboard_reaches_and_uses_every_control(visit, page_address):
    page = visit(f"{page_address}/#seed=7&number=1&steps=2")
    generated(page)
    wanted = set(
        page.evaluate(
            "[...document.querySelectorAll('input, select, button, a')].filter(e => e.checkVisibility())"
            ".map(e => e.id || e.textContent)"
        )
    )
    reached = set()
    page.locator("body").press("Tab")
    for _ in range(len(wanted) + 2):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    assert wanted <= reached, wanted - reached
    page.focus("#die")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#seed').value !== '7'")
    generated(page)
    page.focus("#inside")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#states tbody tr').length === 2")


@pytest.mark.parametrize(
    ("blocks", "weights"),
    [({}, "float32"), ({"patch_size": 2, "norm_num_groups": 4, "attention_head_dim": 4}, "float16")],
)
def test_the_graphics_card_is_compared_with_the_processor(tmp_path, browser_with_gpu, blocks, weights):
    pipe = pipeline(make_unet(**blocks))
    write_site(pipe, tmp_path, RUNTIME, weights)
    with serving(tmp_path) as address, browser_with_gpu.new_page() as page:
        page.goto(f"{address}/#seed=7&number=1&steps=2")
        generated(page)
        page.check("#webgpu")
        page.locator("#status", has_text="Pictures are generated on the graphics card.").wait_for(timeout=120_000)
        page.click("#generate")
        assert_alike(generated(page), expected(pipe, 7, num_inference_steps=2))


def test_a_static_space_is_uploaded_and_shows_its_pictures(visit, server, tmp_path):
    """By the real client to a server that plays the Hub, and from what lies there into the browser."""
    pipeline(make_unet()).save_pretrained(tmp_path / "model")
    arguments = (tmp_path / "model", "me/play", "--space")
    completed = run_hub_script("push_to_hub.py", *arguments, hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    for name, content in server.repositories["space", "me/play"].files.items():
        (tmp_path / "served" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "served" / name).write_bytes(content)
    with serving(tmp_path / "served", ISOLATION) as address:
        page = visit("about:blank", strangers=(address, "https://cdn.jsdelivr.net/"))
        page.route(CDN, give_package)
        page.goto(f"{address}/#seed=7&number=1&steps=2")
        assert_alike(generated(page), expected(pipeline(make_unet()), 7, num_inference_steps=2))
