"""The wheel, built from what git knows and installed where the source is not, works with the model and recipes that it brings."""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from conftest import FLOWERS, ROOT
from PIL import Image


def run(*command, **options):
    completed = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **options)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.slow
def test_the_wheel_alone_checks_itself_generates_and_trains(tmp_path):
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    pip = ("-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path / "clone")
    (wheel,) = tmp_path.glob("flower_ddim-*.whl")
    assert 20_000_000 < wheel.stat().st_size < 50_000_000  # the models are in it
    run(*pip, "install", "--no-deps", "--target", tmp_path / "installed", wheel)

    # What the package needs is in site-packages, without whose `.pth` files the source is not found.
    path = os.pathsep.join([str(tmp_path / "installed"), sysconfig.get_path("purelib")])
    environment = os.environ | {"PYTHONPATH": path}
    where = run("-S", "-P", "-c", "import flower_ddim; print(flower_ddim.__file__)", env=environment, cwd=tmp_path)
    assert where.startswith(str(tmp_path / "installed"))

    def run_installed(*command):
        return run("-S", "-P", *command, env=environment, cwd=tmp_path)

    said = run_installed("-m", "flower_ddim")
    assert "flower.png" in said and (tmp_path / "flower.png").stat().st_size > 1000
    options = ("--num_images", 1, "--num_inference_steps", 2, "--cell_size", 64)
    run_installed("-m", "flower_ddim", "generate", "--model", "flower-ddim-64", *options, "--output", "one.png")
    assert Image.open(tmp_path / "one.png").size == (64, 64)
    data = ("--train_data_dir", FLOWERS, "--cache_dir", tmp_path / "cache", "--output_dir", "run")
    said = run_installed("-m", "flower_ddim", "train", "quick", "--dry_run", *data)
    assert "max_train_steps: 600" in said and not (tmp_path / "run").exists()
    told = "from flower_ddim.extras import install_command; print(install_command('figures'))"
    assert run_installed("-c", told) == "pip install 'flower-ddim[figures]'\n"
    # What pip has written for the console.
    assert "  generate " in run_installed(tmp_path / "installed" / "bin" / "flower-ddim")
