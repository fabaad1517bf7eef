import sys

import pytest
from outside import run_python


PAGE_FAULTS = """
import resource, sys
import torch
from flower_ddim.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(16):  # several blocks may be taken before one fits
    torch.ones(2**24)
before = faults()
for _ in range(4):
    torch.ones(2**24)
print((faults() - before) * resource.getpagesize() / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's switch")
def test_the_memory_of_freed_tensors_is_used_again(tmp_path):
    """In megabytes that the system has handed out for four tensors of 64, one after the other."""
    fresh, kept = (float(run_python(PAGE_FAULTS, how, home=tmp_path).stdout) for how in ("default", "keep"))
    assert fresh > 200 and kept < 1
