"""The page in a browser: what a test visits, reads from it, and compares it with."""

import numpy as np
import pytest
from conftest import make_unet, seeds
from web_server import RUNTIME


PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
CDN = "https://cdn.jsdelivr.net/**"


# The package is imported where it is used: pytest loads this file, as a plugin, before every test.
def pipeline(unet):
    from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler

    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler(prediction_type="v_prediction"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def page_pipe():
    return pipeline(make_unet(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]))


@pytest.fixture(scope="module")
def page_folder(page_pipe, tmp_path_factory):
    from flower_ddim.web.site import write_site

    folder = tmp_path_factory.mktemp("page")
    write_site(page_pipe, folder, RUNTIME)
    return folder


@pytest.fixture(scope="module")
def page_address(page_folder):
    from flower_ddim.web.serving import serving

    with serving(page_folder) as address:
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


def give_package(route, *, spoil=None):
    """Plays the public server, which may spoil a file."""
    name = route.request.url.rpartition("/")[2]
    content = (RUNTIME / "dist" / name).read_bytes()
    content = content[:-1] + bytes([content[-1] ^ 1]) if name == spoil else content
    route.fulfill(body=content, headers={"access-control-allow-origin": "*", "content-type": "text/javascript"})
