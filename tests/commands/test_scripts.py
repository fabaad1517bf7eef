import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, make_unet
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


# As where an extra is not installed: Python imports nothing that stands for `None`.
WITHOUT = """
import runpy, sys
missing, *sys.argv = sys.argv[1:]
sys.modules[missing] = None
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "script, missing, extra",
    [("figures", "matplotlib", "figures"), ("interpolate", "matplotlib", "figures"), ("app", "gradio", "app")],
)
def test_an_extra_that_is_not_installed_is_named(script, missing, extra):
    command = [sys.executable, "-c", WITHOUT, missing, ROOT / "scripts" / f"{script}.py"]
    completed = subprocess.run(command, capture_output=True, text=True)
    assert completed.returncode == 1 and "Traceback" not in completed.stderr
    assert completed.stderr.endswith(f"this needs {missing}: pip install 'flower-ddim[{extra}]'.\n")


def test_generate_writes_a_grid_with_one_seed_an_image(run_script, tmp_path):
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--num_inference_steps", 3, "--cell_size", 16]
    completed = run_script("generate.py", *options, "--num_images", 3, "--output", tmp_path / "three.png")
    assert str(tmp_path / "three.png") in completed.stdout and " s:" in completed.stdout
    run_script("generate.py", *options, "--num_images", 1, "--seed", 2, "--output", tmp_path / "third.png")
    run_script("generate.py", *options, "--num_images", 1, "--solver", "unipc", "--output", tmp_path / "unipc.png")
    assert Image.open(tmp_path / "unipc.png").size == (16, 16)
    grid = np.asarray(Image.open(tmp_path / "three.png"))
    assert grid.shape == (32, 32, 3)
    np.testing.assert_array_equal(grid[16:, :16], np.asarray(Image.open(tmp_path / "third.png")))
    assert (grid[16:, 16:] == 255).all()


def test_generate_explains_bad_input(run_script, tmp_path):
    for arguments, message in (
        (["--model", tmp_path / "missing"], "There is no folder"),
        (["--num_images", 0], "batch_size"),
        (["--num_inference_steps", 0], "num_inference_steps"),
    ):
        completed = run_script("generate.py", *arguments, "--output", tmp_path / "no.png", expect_success=False)
        assert completed.returncode == 1 and message in completed.stderr and "Traceback" not in completed.stderr
    assert not (tmp_path / "no.png").exists()
