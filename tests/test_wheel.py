"""The wheel, built from what git knows and installed where the source is not, works with the model that it brings."""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from conftest import ROOT


def run(*command, **options):
    completed = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **options)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.slow
def test_the_wheel_alone_passes_its_self_check(tmp_path):
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    pip = ("-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path / "clone")
    (wheel,) = tmp_path.glob("flower_ddim-*.whl")
    assert wheel.stat().st_size > 7_000_000  # the model is in it
    run(*pip, "install", "--no-deps", "--target", tmp_path / "installed", wheel)

    # What the package needs is in site-packages, without whose `.pth` files the source is not found.
    path = os.pathsep.join([str(tmp_path / "installed"), sysconfig.get_path("purelib")])
    environment = os.environ | {"PYTHONPATH": path}
    where = run("-S", "-P", "-c", "import flower_ddim; print(flower_ddim.__file__)", env=environment, cwd=tmp_path)
    assert where.startswith(str(tmp_path / "installed"))
    said = run("-S", "-P", "-m", "flower_ddim", env=environment, cwd=tmp_path)
    assert "flower.png" in said and (tmp_path / "flower.png").stat().st_size > 1000
