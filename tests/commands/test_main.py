"""`python -m flower_ddim`, the self-check."""

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from outside import run_python
from PIL import Image

from flower_ddim import PRETRAINED, FlowerDDIMPipeline, __version__


RUN = "import runpy, sys; sys.argv[0] = 'flower_ddim'; runpy.run_module('flower_ddim', run_name='__main__')"


def test_it_prints_the_environment_and_generates_a_picture(tmp_path):
    import torch

    completed = run_python(RUN, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    for expected in (f"flower_ddim {__version__}", f"torch {torch.__version__}", "device: ", "flower.png"):
        assert expected in completed.stdout
    expected = FlowerDDIMPipeline.from_pretrained(PRETRAINED)(generator=torch.Generator().manual_seed(0)).images[0]
    difference = np.asarray(Image.open(tmp_path / "flower.png"), dtype=int) - np.asarray(expected)
    assert abs(difference).max() <= 1


def test_where_it_cannot_write_it_says_so(tmp_path):
    (tmp_path / "nowhere").write_text("")
    completed = run_python(RUN, "--output", tmp_path / "nowhere" / "flower.png", home=tmp_path)
    assert completed.returncode == 1 and "nowhere" in completed.stderr and "Traceback" not in completed.stderr
    completed = run_python(RUN, "--output", tmp_path / "new" / "flower.png", home=tmp_path)
    assert completed.returncode == 0 and (tmp_path / "new" / "flower.png").is_file()


# As if somebody pressed Ctrl-C as soon as the program begins to import the libraries that it stands on.
INTERRUPTED = """
import runpy, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "flower_ddim"}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
del sys.argv[0]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""
PROGRAMS = [*sorted(map(str, (ROOT / "scripts").glob("*.py"))), "flower_ddim", "flower_ddim.training"]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda name: Path(name).name)
def test_ctrl_c_while_it_imports_ends_it_without_a_traceback(tmp_path, program):
    completed = run_python(INTERRUPTED, program, home=tmp_path)
    assert completed.returncode == 130 and not completed.stderr, completed.stderr
