"""The page in a real browser: Debian's Chromium, driven by Playwright. `make test-browser` installs both and runs this."""

import io
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from conftest import ROOT, make_unet
from outside import WITHOUT_PACKAGE, environment_of
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.hub.space import write_gradio_space


pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(folder)
    return folder


def serve(command, environment, log):
    """Starts a server on a free port and waits until it answers; returns its process and address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = environment | {"GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen(
        list(map(str, command)), env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(address)
            return process, address
        except OSError:
            time.sleep(0.5)
    process.kill()
    log.seek(0)
    raise AssertionError(log.read())


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with open(home / "server.log", "w+") as log:
        command = [sys.executable, ROOT / "scripts" / "app.py", "--model", model]
        process, address = serve(command, environment_of(home), log)
        yield address
        process.kill()
        process.wait()


def open_page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.strangers = []

    def note(request):
        if not request.url.startswith((address, "data:", "blob:")):
            page.strangers.append(request.url)

    page.on("request", note)
    page.goto(address)
    page.locator("#generate").wait_for()
    return page


@pytest.fixture
def page(browser, address):
    page = open_page(browser, address)
    yield page
    page.close()
    assert page.strangers == []


def pictures(page, elem_id, count, unlike=()):
    """Addresses of the pictures in a gallery, once there are so many and they are not those of `unlike`."""
    images = page.locator(f"#{elem_id} .grid-container img")
    for _ in range(600):
        sources = images.evaluate_all("images => images.map(image => image.src)")
        if len(sources) == count and sources != list(unlike):
            return sources
        page.wait_for_timeout(50)
    raise AssertionError(f"{sources} in {elem_id}, not {count}")


def set_number(page, label, value, tab=0):
    """Types into the box of a slider or number; every tab has its own."""
    box = page.get_by_role("spinbutton", name=label).nth(tab)
    box.fill(str(value))
    box.press("Tab")


def fetch(page, address):
    return Image.open(io.BytesIO(page.request.get(address).body()))


def toast(page):
    message = page.locator(".toast-body").first
    message.wait_for()
    return message.inner_text()


def test_generates_what_it_is_told_and_downloads_it(page, tmp_path):
    set_number(page, "Images", 3)
    set_number(page, "Seed", 5)
    page.locator("#generate").click()
    pictures(page, "images", 3)
    page.locator(".progress-text, .generating").first.wait_for(state="detached")
    first = pictures(page, "images", 3)
    assert fetch(page, first[0]).size == (256, 256)
    page.locator("#images .thumbnail-item").first.click()
    with page.expect_download() as download:
        page.locator("#images").get_by_label("Download").first.click()
    download.value.save_as(tmp_path / "downloaded.png")
    assert Image.open(tmp_path / "downloaded.png").format == "PNG"


def test_the_steps_can_be_watched(page):
    set_number(page, "Images", 1)
    set_number(page, "Steps", 100)
    page.locator("#generate").click()
    seen = [pictures(page, "images", 1)]
    while len(seen) < 4:
        seen.append(pictures(page, "images", 1, unlike=seen[-1]))
    assert len({source for (source,) in seen}) == 4


def test_interpolates_with_a_slider(page):
    page.get_by_role("tab", name="Between two seeds").click()
    slider = page.locator("#position input[type=range]")
    shown = []
    for position in (0.25, 0.75):
        slider.fill(str(position))
        slider.dispatch_event("pointerup")
        image = page.locator("#between img")
        for _ in range(600):
            if image.count() and image.get_attribute("src") not in shown:
                break
            page.wait_for_timeout(50)
        shown.append(image.get_attribute("src"))
    assert len(set(shown)) == 2
    page.locator("#way").click()
    assert len(set(pictures(page, "way-images", 9))) == 9


@pytest.fixture
def photos(tmp_path):
    for name, seed in (("a.jpg", 0), ("b.png", 1)):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def upload(page, elem_id, path):
    page.locator(f"#{elem_id} input[type=file]").set_input_files(path)


def test_a_photograph_is_rebuilt_and_blended(page, photos):
    page.get_by_role("tab", name="Your photograph").click()
    upload(page, "photo-a", photos / "a.jpg")
    page.locator("#photo-a img").wait_for()
    page.locator("#rebuild").click()
    assert len(set(pictures(page, "rebuilt", 3))) == 3
    assert "rebuilt, error" in page.locator("#rebuilt").inner_text()
    page.locator("#blend").click()
    assert "There is no photograph yet" in toast(page)
    upload(page, "photo-b", photos / "b.png")
    page.locator("#photo-b img").wait_for()
    page.locator("#blend").click()
    assert len(set(pictures(page, "blended", 9))) == 9


def test_uploads_that_are_no_pictures_or_too_large_end_in_a_message(page, photos):
    page.get_by_role("tab", name="Your photograph").click()
    (photos / "text.png").write_text("This is no picture.")
    upload(page, "photo-a", photos / "text.png")
    page.locator("#photo-a img").wait_for(state="attached")
    page.locator("#rebuild").click()
    assert "This file is no picture that can be read" in toast(page)
    (photos / "large.png").write_bytes(b"0" * 6_000_000)
    upload(page, "photo-b", photos / "large.png")
    page.get_by_text("exceed the maximum allowed size").wait_for()


def test_contradicting_settings_end_in_a_message(page):
    page.get_by_role("listbox", name="Solver").or_(page.get_by_label("Solver")).first.click()
    page.get_by_role("option", name="euler").click()
    set_number(page, "η", 0.5)
    page.locator("#generate").click()
    assert "η belongs to ddim" in toast(page)


@pytest.mark.parametrize("data", [[0, 10**6, 20, 0, "ddim"], [0, 1, 10**9, 0, "ddim"]])
def test_the_bounds_hold_for_requests_that_the_page_would_not_make(page, address, data):
    call = page.request.post(f"{address}/gradio_api/call/generate", data={"data": data})
    answer = page.request.get(f"{address}/gradio_api/call/generate/{call.json()['event_id']}").text()
    assert "event: error" in answer and "event: complete" not in answer


def test_an_exported_space_serves_the_page_without_the_package(browser, model, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    write_gradio_space(FlowerDDIMPipeline.from_pretrained(model), tmp_path / "space", title="Play")
    with open(tmp_path / "server.log", "w+") as log:
        command = [*WITHOUT_PACKAGE, tmp_path / "space" / "app.py"]
        process, address = serve(command, environment_of(home, installed=False), log)
        try:
            page = open_page(browser, address)
            set_number(page, "Images", 2)
            page.locator("#generate").click()
            pictures(page, "images", 2)
            page.close()
        finally:
            process.kill()
            process.wait()
