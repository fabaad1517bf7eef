import numpy as np
from conftest import make_unet
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


def test_generate_writes_a_grid_with_one_seed_an_image(run_script, tmp_path):
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--num_inference_steps", 3, "--cell_size", 16]
    completed = run_script("generate.py", *options, "--num_images", 3, "--output", tmp_path / "three.png")
    assert str(tmp_path / "three.png") in completed.stdout and " s:" in completed.stdout
    run_script("generate.py", *options, "--num_images", 1, "--seed", 2, "--output", tmp_path / "third.png")
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
