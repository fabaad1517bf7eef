"""The page in Debian's Chromium, driven by Playwright, on a server of static files."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import make_labelled_unet, make_unet, seeds
from hub_server import run_hub_script
from PIL import Image
from web_server import PACKAGES, RUNTIME, needs_packages

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.web.serving import ISOLATION, serving
from flower_ddim.web.site import write_site


pytestmark = [pytest.mark.browser, needs_packages]

PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
CDN = "https://cdn.jsdelivr.net/**"


def pipeline(unet):
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler(prediction_type="v_prediction"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return pipeline(make_unet(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]))


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_site(pipe, folder, RUNTIME)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with serving(folder) as address:
        yield address


@pytest.fixture
def visit(browser):
    """Opens an address in a new page, which may ask nobody else; yields a function."""
    contexts = []

    def open_page(address, strangers=(), **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1100, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.strangers, page.faults = [], []
        known = (address.partition("/#")[0], "data:", "blob:", *strangers)

        def note(request):
            if not request.url.startswith(known):
                page.strangers.append(request.url)

        page.on("request", note)
        page.on("pageerror", lambda error: page.faults.append(error))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            assert page.strangers == [] and page.faults == []
        context.close()


def settled(page):
    """The status, once something is done or wrong."""
    page.wait_for_function(
        "/Ready|takes|graphics card\\./.test(document.querySelector('#status').textContent) "
        "|| !document.querySelector('#error').hidden",
        timeout=60_000,
    )
    return page.inner_text("#status")


def generated(page):
    """What the page shows after "Generate", as arrays of pixels (H, W, 3)."""
    page.wait_for_function("/takes/.test(document.querySelector('#status').textContent)", timeout=60_000)
    return [pixels_of(page, canvas) for canvas in page.locator("#pictures canvas").all()]


def pixels_of(page, canvas):
    height = canvas.evaluate("canvas => canvas.height")
    return np.array(canvas.evaluate(PIXELS)).reshape(height, -1, 4)[..., :3]


def expected(pipe, *numbers, **options):
    images = pipe(len(numbers), seeds(*numbers), output_type="np", **options).images
    return list((255 * images).round())


def assert_alike(shown, wanted):
    assert len(shown) == len(wanted)
    for one, other in zip(shown, wanted, strict=True):
        assert np.abs(one - other).mean() < 1


def test_a_seed_shows_the_picture_of_the_pipeline(visit, address, pipe):
    page = visit(address)
    assert settled(page) == "Ready." and page.inner_text("#name") == "model" and page.input_value("#steps") == "20"
    for name, value in (("seed", 7), ("number", 2), ("steps", 5)):
        page.fill(f"#{name}", str(value))
    page.click("#generate")
    assert_alike(generated(page), expected(pipe, 7, 8, num_inference_steps=5))
    assert "ms" in page.inner_text("#status")
    page.fill("#eta", "1")
    page.press("#eta", "Enter")
    assert_alike(generated(page), expected(pipe, 7, 8, num_inference_steps=5, eta=1.0))


def test_a_link_shows_the_same_pictures_again(visit, address):
    page = visit(address)
    settled(page)
    page.fill("#number", "1")
    page.click("#die")
    (first,) = generated(page)
    link = page.get_attribute("#share", "href")
    assert f"seed={page.input_value('#seed')}" in link and page.url.endswith(link)
    again = visit(f"{address}/{link}")
    assert_alike(generated(again), [first])


def test_the_way_between_two_pictures_is_that_of_interpolate(visit, address, pipe):
    page = visit(f"{address}/#seed=7&number=2&steps=3")
    generated(page)
    page.locator("#way").evaluate("way => { way.value = 50; way.dispatchEvent(new Event('input')); }")
    walk = page.locator("#walk")
    page.wait_for_function("document.querySelector('#walk').width === 16")
    noises = torch.stack([torch.randn(3, 16, 16, generator=generator) for generator in seeds(7, 8)])
    middle = pipe.interpolate(noises, num_images=3, num_inference_steps=3, output_type="np").images[1]
    assert_alike([pixels_of(page, walk)], [(255 * middle).round()])
    page.click("#loop")
    page.wait_for_function("document.querySelector('#way').value == 20")
    page.click("#loop")
    page.wait_for_function("document.querySelector('#loop').ariaPressed === 'false'")


def test_every_step_can_be_looked_into(visit, address, pipe):
    page = visit(f"{address}/#seed=7&number=1&steps=4")
    generated(page)
    page.click("#inside")
    page.wait_for_function("document.querySelectorAll('#states tbody tr').length === 4")
    assert page.locator("#states tbody tr").first.inner_text().split()[:4] == ["1", "1.000", "0.020", "1.000"]
    latents = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    states = list(pipe.denoise(latents, 4))
    shown = [pixels_of(page, canvas) for canvas in page.locator("#states canvas").all()]
    parts = [part for state in states for part in (state.noisy, state.predicted)]
    assert_alike(shown, [(255 * pipe.postprocess(part, "np")[0]).round() for part in parts])


def test_a_picture_is_saved(visit, address):
    page = visit(f"{address}/#seed=7&number=1&steps=2")
    (shown,) = generated(page)
    with page.expect_download() as download:
        page.click("text=Save 7")
    assert download.value.suggested_filename == "seed-7.png"
    saved = np.asarray(Image.open(io.BytesIO(download.value.path().read_bytes())).convert("RGB"))
    assert np.array_equal(saved, shown)


def test_threads_need_the_headers_and_pictures_do_not(visit, folder, pipe):
    with serving(folder, ISOLATION) as address:
        page = visit(f"{address}/#seed=7&number=1&steps=2")
        assert page.evaluate("crossOriginIsolated")
        assert_alike(generated(page), expected(pipe, 7, num_inference_steps=2))


def test_in_a_frame_of_another_site_there_is_one_thread_and_the_same_picture(visit, folder, pipe, tmp_path):
    with serving(folder, ISOLATION) as inside, serving(tmp_path) as outside:
        inside = inside.replace("127.0.0.1", "localhost")
        (tmp_path / "index.html").write_text(f"<iframe src='{inside}/#seed=7&number=1&steps=2' width=900></iframe>")
        page = visit(outside, strangers=[inside])
        frame = page.frame_locator("iframe")
        frame.locator("#status", has_text="takes").wait_for()
        assert frame.locator("body").evaluate("() => crossOriginIsolated") is False
        assert_alike([pixels_of(page, frame.locator("#pictures canvas"))], expected(pipe, 7, num_inference_steps=2))


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


def give_package(route, *, spoil=None):
    """Plays the public server, which may spoil a file."""
    name = route.request.url.rpartition("/")[2]
    content = (RUNTIME / "dist" / name).read_bytes()
    content = content[:-1] + bytes([content[-1] ^ 1]) if name == spoil else content
    route.fulfill(body=content, headers={"access-control-allow-origin": "*", "content-type": "text/javascript"})


def test_the_runtime_of_a_public_server_is_checked_before_it_runs(visit, browser, pipe, tmp_path):
    write_site(pipe, tmp_path)
    with serving(tmp_path, ISOLATION) as address:
        for spoil in (None, "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
            with browser.new_context() as context:
                context.route(CDN, lambda route, *, spoil=spoil: give_package(route, spoil=spoil))
                page = context.new_page()
                page.goto(f"{address}/#seed=7&number=1&steps=2")
                if spoil is None:
                    assert_alike(generated(page), expected(pipe, 7, num_inference_steps=2))
                else:
                    settled(page)
                    sentence = "could not be loaded, or is not the file that this page was made for."
                    assert page.inner_text("#error") == f"{spoil} {sentence}"


def test_what_is_wrong_is_told_in_a_sentence(visit, folder, address, tmp_path):
    page = visit(address)
    settled(page)
    for name, value, sentence in (
        ("seed", "rose", "The seed must be a whole number from 0, of at most 18 digits."),
        ("number", "0", "Pictures must be a whole number from 1 to 16."),
        ("steps", "2.5", "Steps must be a whole number from 1 to 100."),
        ("eta", "2", "Fresh noise, η must be a number from 0 to 1."),
    ):
        before = page.input_value(f"#{name}")
        page.fill(f"#{name}", value)
        page.click("#generate")
        page.locator("#error", has_text=sentence).wait_for()
        page.fill(f"#{name}", before)
    shutil.copytree(folder, tmp_path / "page")
    (tmp_path / "page" / "model" / "unet.onnx").unlink()
    with serving(tmp_path / "page") as broken:
        page = visit(broken)
        page.locator("#error", has_text="unet.onnx could not be loaded (404").wait_for()
        (tmp_path / "page" / "model" / "unet.onnx").write_bytes(b"half of a file")
        page = visit(broken)
        page.locator("#error", has_text="The model cannot be read").wait_for()
        (tmp_path / "page" / "model" / "sampler.json").write_text("{")
        page = visit(broken)
        page.locator("#error", has_text="model/sampler.json is damaged: write the page again.").wait_for()
        assert page.inner_text("#status") == "The model is not loaded."


def test_a_page_that_is_opened_from_a_file_says_that_it_needs_a_server(visit, folder):
    page = visit((folder / "index.html").as_uri(), strangers=["file:"])
    assert "open it through a server" in page.inner_text("#not-running")


def test_only_the_newest_request_counts(visit, address, pipe):
    """Impatient clicks do not queue, a loop ends with whatever is asked next, and there is never more than one."""
    page = visit(f"{address}/#seed=7&number=2&steps=40")
    generated(page)
    for seed in (1, 2, 3):
        page.fill("#seed", str(seed))
        page.press("#seed", "Enter")
    assert_alike(generated(page), expected(pipe, 3, 4, num_inference_steps=40))
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


def test_a_browser_without_webassembly_is_told_so(browser, address):
    with browser.new_context() as context:
        context.add_init_script("delete globalThis.WebAssembly")
        page = context.new_page()
        page.goto(address)
        page.locator("#error", has_text="This browser has no WebAssembly").wait_for()


def test_a_telephone_shows_all_of_it_and_axe_finds_nothing(visit, address):
    page = visit(f"{address}/#seed=7&number=3&steps=2", viewport={"width": 360, "height": 700})
    generated(page)
    page.click("#inside")
    page.wait_for_function("document.querySelectorAll('#states tbody tr').length === 2")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    page.add_script_tag(path=str(PACKAGES / "axe-core" / "axe.min.js"))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("axe.run()")["violations"]
        assert found == [], json.dumps(found, indent=1)[:3000]


def test_the_keyboard_reaches_and_uses_every_control(visit, address):
    page = visit(f"{address}/#seed=7&number=1&steps=2")
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


def test_the_graphics_card_is_compared_with_the_processor(folder, pipe, browser_with_gpu):
    with serving(folder) as address, browser_with_gpu.new_page() as page:
        page.goto(f"{address}/#seed=7&number=1&steps=2")
        generated(page)
        page.check("#webgpu")
        page.locator("#status", has_text="Pictures are generated on the graphics card.").wait_for(timeout=120_000)
        page.click("#generate")
        assert_alike(generated(page), expected(pipe, 7, num_inference_steps=2))


def test_without_what_the_graphics_card_needs_the_processor_goes_on(folder, pipe, browser_with_gpu, tmp_path):
    shutil.copytree(folder, tmp_path / "page")
    (tmp_path / "page" / "runtime" / "ort-wasm-simd-threaded.asyncify.wasm").unlink()
    with serving(tmp_path / "page") as address, browser_with_gpu.new_page() as page:
        page.goto(address)
        settled(page)
        page.check("#webgpu")
        page.locator("#error", has_text="so the processor goes on").wait_for()
        assert not page.is_checked("#webgpu")
        for name, value in (("seed", 7), ("number", 1), ("steps", 2)):
            page.fill(f"#{name}", str(value))
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
