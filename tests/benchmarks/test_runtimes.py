import json
import shutil

import pytest
from conftest import ROOT, make_unet
from web_server import RUNTIME, needs_packages

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


@pytest.mark.browser
@needs_packages
def test_numpy_and_browser_are_measured_beside_the_pipeline(run_script, tmp_path):
    unet = make_unet(default_num_inference_steps=2)
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler()).save_pretrained(tmp_path / "model")
    shutil.copy(ROOT / "docs" / "onnx.md", tmp_path / "doc.md")
    options = ["--model", tmp_path / "model", "--runtime", RUNTIME, "--rounds", 1, "--batch_size", 2, "--threads", 1]
    options += [
        "--script",
        ROOT / "docs" / "onnx.md",
        "--output",
        tmp_path / "out.json",
        "--document",
        tmp_path / "doc.md",
    ]
    run_script("benchmark.py", "runtimes", *options)
    result = json.loads((tmp_path / "out.json").read_text())
    for name in ("first_picture", "images_per_second", "milliseconds_per_step"):
        assert len(result[name]) == 2 and all(value > 0 for values in result[name].values() for value in values)
    assert "1 thread" in result["milliseconds_per_step"] and not any("webgpu" in name for name in result["bytes"])
    assert "of which the model" in (tmp_path / "doc.md").read_text()
