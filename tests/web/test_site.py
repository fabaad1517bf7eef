"""What the page is written from, without a browser."""

import json
import subprocess
import sys

import pytest
from conftest import make_unet
from web_server import RUNTIME, needs_packages

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.web.site import STATIC, integrity, write_site


def test_without_a_runtime_of_its_own_a_page_names_where_it_comes_from(saved, tmp_path):
    command = [sys.executable, "-m", "flower_ddim", "web", saved, tmp_path / "page"]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "torch" not in completed.stderr  # whose exporter talks of itself
    assert "is fetched from a public server (cdn.jsdelivr.net) and checked" in completed.stdout
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "index.html",
        "model",
        "network.js",
        "page.css",
        "page.js",
        "runtime.json",
        "sampler.js",
    ]
    runtime = json.loads((tmp_path / "page" / "runtime.json").read_text())
    assert runtime["base"] == f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{runtime['version']}/dist/"


def test_another_runtime_is_refused_before_anything_is_written(tmp_path):
    pipe = FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())
    package = tmp_path / "package"
    (package / "dist").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is not the npm package .*`npm pack onnxruntime-web@"):
        write_site(pipe, tmp_path / "page", package)
    version = json.loads((STATIC / "runtime.json").read_text())["version"]
    (package / "package.json").write_text('{"version": "1.0.0"}')
    with pytest.raises(ValueError, match="is version 1.0.0, not the npm package"):
        write_site(pipe, tmp_path / "page", package)
    (package / "package.json").write_text(json.dumps({"version": version}))
    (package / "dist" / "ort.wasm.bundle.min.mjs").write_text("alert()")
    with pytest.raises(ValueError, match="ort.wasm.bundle.min.mjs is missing, or not that of the npm package"):
        write_site(pipe, tmp_path / "page", package)
    assert not (tmp_path / "page").exists()


def test_what_the_user_keeps_in_the_folder_stays(tmp_path):
    pipe = FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("of another page")
    with pytest.raises(ValueError, match=r"holds other files, such as index.html"):
        write_site(pipe, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index.html"]
    (tmp_path / "page" / ".git").mkdir(parents=True)
    for _ in range(2):  # an earlier page may be there
        write_site(pipe, tmp_path / "page")
    for name in ("runtime", "model"):
        (tmp_path / "page" / name).mkdir(exist_ok=True)
        (tmp_path / "page" / name / "thesis.txt").write_text("years of work")
        with pytest.raises(ValueError, match=rf"{name} holds other files, such as thesis.txt"):
            write_site(pipe, tmp_path / "page")
        (tmp_path / "page" / name / "thesis.txt").unlink()


@pytest.mark.browser
@needs_packages
def test_the_hashes_are_those_of_the_package():
    runtime = json.loads((STATIC / "runtime.json").read_text())
    assert json.loads((RUNTIME / "package.json").read_text())["version"] == runtime["version"]
    for kind in ("wasm", "webgpu"):
        for part in runtime[kind].values():
            file = RUNTIME / "dist" / part["file"]
            assert (file.stat().st_size, integrity(file)) == (part["bytes"], part["integrity"])
    locked = json.loads((RUNTIME.parents[1] / "package-lock.json").read_text())["packages"]
    assert locked["node_modules/onnxruntime-web"]["version"] == runtime["version"]


@pytest.mark.browser
@needs_packages
def test_a_page_that_is_written_again_keeps_no_runtime_that_it_does_not_use(tmp_path):
    pipe = FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())
    write_site(pipe, tmp_path / "page", RUNTIME)
    assert len(list((tmp_path / "page" / "runtime").iterdir())) == 4
    write_site(pipe, tmp_path / "page")
    assert not (tmp_path / "page" / "runtime").exists()
