import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, make_labelled_unet, make_unet, seeds
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.extras import install_command


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
    # In a clone; `tests/test_wheel.py` has the command for an installed package.
    assert completed.stderr.endswith(f"this needs {missing}: {install_command(extra)}\n")
    assert shlex.split(install_command(extra))[-3:] == [f"{ROOT}[{extra}]", "-c", str(ROOT / "constraints.txt")]


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


def test_generate_writes_a_captioned_row_for_every_class(run_script, tmp_path):
    FlowerDDIMPipeline(make_labelled_unet(), FlowerDDIMScheduler()).save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--num_inference_steps", 2]
    grid = [*options, "--cell_size", 16, "--num_images", 2, "--guidance_scale", 2]
    run_script("generate.py", *grid, "--class_labels", "Sun Flower", 0, "--output", tmp_path / "two.png")
    run_script("generate.py", *grid, "--class_labels", "rose", "--output", tmp_path / "rose.png")
    two, rose = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("two", "rose"))
    assert two.shape[0] == 32 and two.shape[1] > 2 * 16 + 8
    np.testing.assert_array_equal(two[16:, -32:], rose[:, -32:])
    assert (two[:16, :-32] < 128).any() and (two[:, -32:][:16] != two[:, -32:][16:]).any()
    # Single files take the classes in turns.
    run_script("generate.py", *options, "--num_images", 3, "--class_labels", 2, 0, "--output_dir", tmp_path / "files")
    record = json.loads((tmp_path / "files" / "generation.json").read_text())
    assert record["class_labels"] == [2, 0] and record["guidance_scale"] == 1.0
    pipe = FlowerDDIMPipeline.from_pretrained(tmp_path / "model")
    expected = pipe(generator=seeds(2), class_labels=2, num_inference_steps=2).images[0]
    written = np.asarray(Image.open(tmp_path / "files" / "000002.png"))
    assert abs(written.astype(int) - np.asarray(expected)).max() <= 1


def test_generate_explains_bad_input(run_script, tmp_path):
    for arguments, message in (
        (["--model", tmp_path / "missing"], "There is no folder"),
        (["--num_images", 0], "`num_images` is 0"),
        (["--num_inference_steps", 0], "num_inference_steps"),
        (["--class_labels", "rose"], "knows no classes"),
    ):
        completed = run_script("generate.py", *arguments, "--output", tmp_path / "no.png", expect_success=False)
        assert completed.returncode == 1 and message in completed.stderr and "Traceback" not in completed.stderr
    assert not (tmp_path / "no.png").exists()
    arguments = ("--num_anchors", 0, "--output", tmp_path / "no.gif")
    completed = run_script("interpolate.py", *arguments, expect_success=False)
    assert (
        completed.returncode == 1 and "`num_anchors` is 0" in completed.stderr and not (tmp_path / "no.gif").exists()
    )


def test_outputs_may_lie_in_folders_that_are_yet_to_be_made(run_script, tmp_path):
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--num_inference_steps", 1]
    run_script("generate.py", *options, "--num_images", 1, "--output", tmp_path / "missing" / "grid.png")
    assert Image.open(tmp_path / "missing" / "grid.png").size == (192, 192)
    options += ["--num_anchors", 2, "--num_images", 2, "--size", 16]
    run_script("interpolate.py", *options, "--output", tmp_path / "absent" / "loop.gif")
    assert Image.open(tmp_path / "absent" / "loop.gif").n_frames > 1
    assert [path.name for path in (tmp_path / "absent").iterdir()] == ["loop.gif"]


@pytest.mark.parametrize("script, name", [("generate", "a.png"), ("interpolate", "a.gif"), ("model_card", "a.md")])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(run_script, tmp_path, script, name):
    (tmp_path / "file").write_text("in the way")
    # The model comes later: there is none.
    model = [tmp_path / "no-model"] if script == "model_card" else ["--model", tmp_path / "no-model"]
    completed = run_script(f"{script}.py", *model, "--output", tmp_path / "file" / name, expect_success=False)
    assert completed.returncode == 1 and "Traceback" not in completed.stderr
    assert f"{tmp_path / 'file' / name} cannot be written: {tmp_path / 'file'}" in completed.stderr.splitlines()[-1]


def test_a_format_that_can_only_be_read_is_refused(run_script, tmp_path):
    completed = run_script("generate.py", "--output", tmp_path / "grid.psd", expect_success=False)
    assert completed.returncode == 1 and "grid.psd can hold no picture" in completed.stderr.splitlines()[-1]
