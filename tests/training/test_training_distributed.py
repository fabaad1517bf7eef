"""Two processes with half the batch each against one process with all of it."""

import signal
import time

import pytest
import torch
from conftest import ROOT
from distributed_worker import run
from training_runs import metrics, train_here, words

from flower_ddim.training.checkpoints import list_checkpoints


@pytest.fixture(scope="module")
def folders(tmp_path_factory, launch_two):
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    run(one, batch_size=16)
    launch_two(ROOT / "tests" / "distributed_worker.py", two, 8)
    return one, two


def test_pictures_noise_times_and_labels_of_every_global_batch_are_the_same(folders):
    one, two = folders
    whole = torch.load(one / "local-0.pt")["batches"]
    halves = [torch.load(two / f"local-{rank}.pt")["batches"] for rank in (0, 1)]
    for step, batch in enumerate(whole):
        assert len(batch) == 4
        for i, tensor in enumerate(batch):
            assert torch.equal(torch.cat([half[step][i] for half in halves]), tensor)


def test_with_frozen_statistics_the_losses_agree(folders):
    one, two = (list(metrics(folder / "frozen").values()) for folder in folders)
    assert len(one) == 20 and two == pytest.approx(one, abs=1e-5)


def test_with_local_statistics_the_losses_stay_close(folders):
    """Each process normalises with the statistics of its own half batch, here of 8 small pictures; the bound is 2 %."""
    one, two = (list(metrics(folder / "local").values()) for folder in folders)
    assert two == pytest.approx(one, rel=0.02) and two != one


@pytest.mark.parametrize("statistics", ["frozen", "local"])
def test_both_processes_hold_the_same_average(folders, statistics):
    """BatchNorm statistics included: those of the processes are averaged after every step."""
    first, second = (torch.load(folders[1] / f"{statistics}-{rank}.pt")["ema"] for rank in (0, 1))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_shared_statistics_are_the_mean_of_both_halves(folders):
    """The running mean of the first layer depends on the pictures alone, and is the same from halves as from the whole."""
    name = "down_blocks.0.resnets.0.norm.running_mean"
    whole, halves = (torch.load(folder / "local-0.pt")["ema"][name] for folder in folders)
    torch.testing.assert_close(halves, whole, rtol=0, atol=1e-3)


def test_a_run_of_two_processes_goes_on_in_one(launch_two, tmp_path_factory):
    """Checkpoints do not depend on the number of processes. For the first steps some weights have no gradients."""
    output_dir = tmp_path_factory.mktemp("moving") / "run"
    options = {"validation_epochs": 1, "growth_steps": [3]}
    launch_two(ROOT / "scripts" / "train.py", *words(output_dir, train_batch_size=8, **options))
    assert len(metrics(output_dir)) == 8 and len(metrics(output_dir, "validation_loss")) == 1
    train_here(output_dir, train_batch_size=16, max_train_steps=10, resume_from_checkpoint="latest", **options)
    assert list(metrics(output_dir)) == list(range(1, 11))


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs torchrun needs nothing else")
def test_processes_that_do_not_know_of_each_other_are_refused(launch_two, tmp_path):
    completed = launch_two(
        ROOT / "scripts" / "train.py", *words(tmp_path / "run"), use_cpu="false", expect_success=False
    )
    assert (
        "2 processes started, but each would train alone: on CPUs write `ACCELERATE_USE_CPU=true" in completed.stderr
    )
    assert not (tmp_path / "run").exists()


def test_two_processes_told_to_stop_leave_after_the_same_step(start_two, tmp_path_factory):
    """torchrun passes the signal on to both, which are in the middle of asking each other at most moments."""
    output_dir = tmp_path_factory.mktemp("stopped") / "run"
    options = words(output_dir, train_batch_size=8, max_train_steps=100_000, checkpointing_steps=100_000)
    process = start_two(ROOT / "scripts" / "train.py", *options)
    deadline = time.monotonic() + 240
    while not (output_dir / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)
    (checkpoint,) = list_checkpoints(output_dir)
    last = max(metrics(output_dir))
    assert checkpoint.name == f"checkpoint-{last}"
    train_here(output_dir, train_batch_size=16, max_train_steps=last + 1, resume_from_checkpoint="latest")
