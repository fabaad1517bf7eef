"""Training that is killed, stopped, runs out of space or finds damaged files: the real script, in processes of its own."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from conftest import FLOWERS, ROOT
from PIL import Image
from training_runs import metrics, small_config, train_here, words

from flower_ddim import FlowerDDIMPipeline
from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.training import checkpoints
from flower_ddim.training.trainer import Trainer


def start(output_dir, limit_file_size=None, **options):
    """Starts the script; its output goes to a file, because nobody reads a pipe while it runs."""

    def limit():
        if limit_file_size:
            signal.signal(
                signal.SIGXFSZ, signal.SIG_IGN
            )  # so that writing fails, as on a full disk, and does not kill
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_size, limit_file_size))

    log = (output_dir.parent / f"{output_dir.name}.log").open("a+")
    command = [sys.executable, ROOT / "scripts" / "train.py", *words(output_dir, **options)]
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=limit)
    process.log = log
    return process


def wait_for(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, printed(process)
        time.sleep(0.05)


def printed(process):
    process.log.seek(0)
    return process.log.read()


@pytest.mark.slow
def test_killed_at_random_moments_the_newest_checkpoint_always_loads_and_resumes(runs):
    """Twenty lives of one run that writes a checkpoint after every step."""
    output_dir = runs / "killed"
    options = {"checkpointing_steps": 1, "max_train_steps": 100_000, "resume_from_checkpoint": "latest"}
    chance = random.Random(0)
    reached = 0
    for _ in range(20):
        process = start(output_dir, **options)
        wait_for(lambda before=reached: newest_step(output_dir) > before, process)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.wait()
        checkpoint = checkpoints.list_checkpoints(output_dir)[-1]
        FlowerDDIMPipeline.from_pretrained(checkpoint)
        assert newest_step(output_dir) > reached
        reached = newest_step(output_dir)
    train_here(output_dir, **options | {"max_train_steps": reached + 1})
    assert list(metrics(output_dir)) == list(range(1, reached + 2))


def newest_step(output_dir):
    found = checkpoints.list_checkpoints(output_dir)
    return json.loads((found[-1] / checkpoints.STATE_FILE).read_text())["step"] if found else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_the_step_saves_and_leaves(runs, number):
    output_dir = runs / number.name
    process = start(output_dir, max_train_steps=100_000, checkpointing_steps=100_000)
    wait_for(lambda: (output_dir / "metrics.jsonl").exists(), process)
    process.send_signal(number)
    assert process.wait(timeout=120) == 128 + number, printed(process)
    assert "Traceback" not in printed(process)
    last = max(metrics(output_dir))
    assert newest_step(output_dir) == last
    train_here(output_dir, resume_from_checkpoint="latest", max_train_steps=last + 2)
    assert list(metrics(output_dir)) == list(range(1, last + 3))


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays_good(runs):
    """A limit on the size of files stands for the full disk: the optimizer's state does not fit."""
    output_dir = runs / "full"
    train_here(output_dir, max_train_steps=4)
    options = {"resume_from_checkpoint": "latest", "max_train_steps": 8}
    state = output_dir / "checkpoint-4" / "state"
    limit = (state / "model.safetensors").stat().st_size + 100
    assert (state / "optimizer.bin").stat().st_size > limit
    process = start(output_dir, limit_file_size=limit, **options)
    assert process.wait(timeout=240) == 1
    assert "The checkpoint of step 8 could not be written" in printed(process)
    assert f"the last good one is {output_dir / 'checkpoint-4'}" in printed(process)
    assert "Traceback" not in printed(process) and not list(output_dir.glob(".checkpoint-*"))
    train_here(output_dir, **options)


def test_an_output_folder_that_may_not_be_written_is_one_sentence(runs):
    (runs / "sealed").mkdir(mode=0o500)
    trainer = Trainer(small_config(runs / "sealed" / "run"))
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        with pytest.raises(OSError, match="`output_dir` cannot be used .*Permission denied"):
            trainer.train()
    finally:
        os.seteuid(user)


def test_an_output_folder_that_is_a_file_is_one_sentence(runs):
    (runs / "file").write_text("")
    with pytest.raises(OSError, match="`output_dir` cannot be used .*file"):
        train_here(runs / "file")


def test_a_damaged_checkpoint_is_named_with_the_one_to_use(runs):
    output_dir = train_here(runs / "damaged")
    weights = output_dir / "checkpoint-8" / "state" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # nobody but the checksum would notice
    weights.write_bytes(data)
    with pytest.raises(ValueError, match="checkpoint-8 is damaged .*resume from checkpoint-4"):
        train_here(output_dir, resume_from_checkpoint="latest", max_train_steps=12)
    train_here(output_dir, resume_from_checkpoint=str(output_dir / "checkpoint-4"))


def test_a_checkpoint_of_another_network_is_refused(runs):
    output_dir = train_here(runs / "other")
    with pytest.raises(ValueError, match=r"block_out_channels \[8, 16\] there, \[8, 24\] here"):
        train_here(output_dir, resume_from_checkpoint="latest", block_out_channels=[8, 24], max_train_steps=12)


def test_three_broken_files_of_a_hundred_are_skipped_with_their_names(runs, run_script):
    folder = runs / "pictures"
    folder.mkdir()
    for i, pixels in enumerate(decode_images(open_dataset(data_dir=str(FLOWERS)), 16)[range(100)]):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    for i in (7, 50, 99):
        path = folder / f"{i:03}.png"
        path.write_bytes(path.read_bytes()[:100])
    completed = run_script("train.py", *words(runs / "broken", train_data_dir=folder, max_train_steps=1))
    assert "3 of 100 pictures cannot be read and are skipped" in completed.stderr
    assert all(name in completed.stderr for name in ("007.png", "050.png", "099.png"))


def test_an_interrupted_download_is_one_sentence(runs):
    """Half a Parquet file, as it would lie in the cache."""
    (runs / "half").mkdir()
    data = (FLOWERS / "flowers-128.parquet").read_bytes()
    (runs / "half" / "train.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="half cannot be read"):
        train_here(runs / "nothing", train_data_dir=str(runs / "half"))
    assert not (runs / "nothing").exists()
