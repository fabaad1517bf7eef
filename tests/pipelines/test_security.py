"""Files from strangers: broken ones end in clear errors, and no code in them is run."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import make_unet
from training_runs import train_here

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.training.checkpoints import STATE_FILE


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_broken_model_folders_end_in_clear_errors(tmp_path):
    """Nothing is run, nobody is asked, nothing hangs or fills the memory: the process is limited in all of that."""
    folder, marker = tmp_path / "model", tmp_path / "code was run"
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(folder)
    for module in folder.rglob("*.py"):
        module.write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    completed = subprocess.run(
        [sys.executable, Path(__file__).with_name("fuzz_loading.py"), folder, "0"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=500,
    )
    assert completed.returncode == 0, completed.stderr
    results = [json.loads(line) for line in completed.stdout.splitlines()]
    assert len(results) == 500
    for result in results:
        assert not result["events"], result
        assert result["error"] is None or (result["clear"] and len(result["text"].split()) > 7), result
    failed = sum(result["error"] is not None for result in results)
    assert 250 < failed < 450  # the others are changes that do no harm, of a version for instance
    assert not marker.exists()


def test_checkpoints_run_no_code_either(tmp_path):
    """Theirs are pickles that PyTorch reads with `weights_only=True`."""
    run, marker = tmp_path / "run", tmp_path / "code was run"
    train_here(run, max_train_steps=1, checkpointing_steps=1)
    state_file = run / "checkpoint-1" / STATE_FILE
    for name in ("optimizer.bin", "random_states_0.pkl"):
        file = run / "checkpoint-1" / "state" / name
        before = {path: path.read_bytes() for path in (file, state_file)}
        file.write_bytes(pickle.dumps(Payload(marker)))
        state = json.loads(state_file.read_text())
        state["sha256"][f"state/{name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
        state_file.write_text(json.dumps(state))
        refused = pytest.raises(Exception, match="eights_only|mkdir") if name == "optimizer.bin" else nullcontext()
        with refused:  # accelerate does without the states of random generators that it cannot read
            train_here(run, max_train_steps=2, resume_from_checkpoint="latest")
        assert not marker.exists()
        for path, content in before.items():
            path.write_bytes(content)
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # so it would have been noticed
