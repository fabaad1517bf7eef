"""What the page says in Chromium where something is wrong, missing or spoilt."""

import shutil

import pytest
from page import CDN, assert_alike, expected, generated, give_package, settled
from web_server import needs_packages

from flower_ddim.web.serving import ISOLATION, serving
from flower_ddim.web.site import write_site


pytestmark = [pytest.mark.browser, needs_packages]


def test_the_runtime_of_a_public_server_is_checked_before_it_runs(visit, browser, page_pipe, tmp_path):
    write_site(page_pipe, tmp_path)
    with serving(tmp_path, ISOLATION) as address:
        for spoil in (None, "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
            with browser.new_context() as context:
                context.route(CDN, lambda route, *, spoil=spoil: give_package(route, spoil=spoil))
                page = context.new_page()
                page.goto(f"{address}/#seed=7&number=1&steps=2")
                if spoil is None:
                    assert_alike(generated(page), expected(page_pipe, 7, num_inference_steps=2))
                else:
                    settled(page)
                    sentence = "could not be loaded, or is not the file that this page was made for."
                    assert page.inner_text("#error") == f"{spoil} {sentence}"


def test_what_is_wrong_is_told_in_a_sentence(visit, page_folder, page_address, tmp_path):
    page = visit(page_address)
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
    shutil.copytree(page_folder, tmp_path / "page")
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


def test_a_page_that_is_opened_from_a_file_says_that_it_needs_a_server(visit, page_folder):
    page = visit((page_folder / "index.html").as_uri(), strangers=["file:"])
    assert "open it through a server" in page.inner_text("#not-running")


def test_a_browser_without_webassembly_is_told_so(browser, page_address):
    with browser.new_context() as context:
        context.add_init_script("delete globalThis.WebAssembly")
        page = context.new_page()
        page.goto(page_address)
        page.locator("#error", has_text="This browser has no WebAssembly").wait_for()


def test_without_what_the_graphics_card_needs_the_processor_goes_on(
    page_folder, page_pipe, browser_with_gpu, tmp_path
):
    shutil.copytree(page_folder, tmp_path / "page")
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
        assert_alike(generated(page), expected(page_pipe, 7, num_inference_steps=2))
