"""The user's files are theirs: a training deletes and overwrites only what trainings have written."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
from conftest import FLOWERS, ROOT
from PIL import Image
from training_runs import WEIGHTS, metrics, small_config, train_here, words

from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.storage.checksums import network_weights, weights_checksum
from flower_ddim.training import train
from flower_ddim.training.output import LOCK, RECORD, OutputFolder


@pytest.fixture(scope="module")
def pictures(runs):
    """Folder of 32 pictures, half of them in a folder with a name of ours."""
    folder = runs / "pictures"
    (folder / "best").mkdir(parents=True)
    for i, pixels in enumerate(decode_images(open_dataset(data_dir=str(FLOWERS)), 16)[range(32)]):
        Image.fromarray(pixels).save(folder / ("best" if i % 2 else ".") / f"{i}.png")
    return folder


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inside", ["", "out", "best/out"])
@pytest.mark.parametrize("source", ["train_data_dir", "dataset_name"])
def test_a_folder_of_pictures_is_no_output_folder(pictures, inside, source):
    before = files_of(pictures)
    options = {"train_data_dir": None} | {source: str(pictures)}
    with pytest.raises(ValueError, match="lies in the folder of the pictures"):
        train_here(pictures / inside, **options, overwrite_output_dir=True)
    assert files_of(pictures) == before


def test_the_pictures_may_lie_in_the_output_folder(pictures, runs):
    shutil.copytree(pictures, runs / "around" / "mine")
    before = files_of(runs / "around" / "mine")
    for again in ({}, {"overwrite_output_dir": True}):
        train_here(runs / "around", train_data_dir=str(runs / "around" / "mine"), max_train_steps=1, **again)
        assert files_of(runs / "around" / "mine") == before


@pytest.mark.parametrize("name", ["samples.png", "loss.png", "best/1.png", "samples/mine.png", "unet/notes.txt"])
def test_a_file_of_the_users_under_one_of_our_names_is_a_refusal_that_names_it(runs, name):
    folder = runs / name.replace("/", "-")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    for options in ({}, {"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}):
        with pytest.raises(ValueError, match=f"{name} was not written by a training"):
            train_here(folder, **options)
    assert files_of(folder).keys() == {(folder / name).relative_to(folder)}


def test_overwriting_removes_what_the_training_wrote_and_nothing_else(runs):
    folder = train_here(runs / "mixed", max_train_steps=2, save_images_epochs=1, dataset_repeats=1)
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoint-mine").mkdir()
    train_here(folder, max_train_steps=1, save_images_epochs=0, overwrite_output_dir=True)
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "checkpoint-mine").is_dir()
    assert (
        list(metrics(folder)) == [1] and not (folder / "checkpoint-2").exists() and not (folder / "samples").exists()
    )


def test_a_folder_without_a_record_is_known_by_its_checkpoints(runs):
    """As earlier versions left them."""
    folder = train_here(runs / "old", max_train_steps=2)
    (folder / RECORD).unlink()
    train_here(folder, max_train_steps=3, resume_from_checkpoint="latest")
    (folder / RECORD).unlink()
    train_here(folder, max_train_steps=1, overwrite_output_dir=True)
    assert list(metrics(folder)) == [1]


def test_a_damaged_record_is_named(runs):
    (runs / "damaged").mkdir()
    (runs / "damaged" / RECORD).write_text("{")
    with pytest.raises(ValueError, match="damaged.* is damaged .*name another `--output_dir`"):
        train_here(runs / "damaged", max_train_steps=1)


def test_two_trainings_do_not_write_to_one_folder(runs):
    """The second one is another process; the lock goes with the first, however that ends."""
    holder = OutputFolder(runs / "shared")
    holder.prepare(overwrite=False)
    command = [sys.executable, ROOT / "scripts" / "train.py", *words(runs / "shared", max_train_steps=1)]
    for more in ([], ["--overwrite_output_dir"]):
        completed = subprocess.run([*command, *more], capture_output=True, text=True)
        assert completed.returncode == 1 and f"(process {os.getpid()} on " in completed.stderr
        assert "Another training" in completed.stderr and "Traceback" not in completed.stderr
    assert not list(runs.glob("shared/checkpoint-*"))
    completed = subprocess.run([*command, "--dry_run"], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    holder.unlock()
    train_here(runs / "shared", max_train_steps=1)
    assert (runs / "shared" / LOCK).exists() and (runs / "shared" / WEIGHTS).exists()


def test_the_lock_of_a_killed_run_is_free(runs):
    code = "import sys, os, pathlib; from flower_ddim.training.output import OutputFolder\n"
    code += "OutputFolder(pathlib.Path(sys.argv[1])).prepare(False); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, runs / "killed"], check=False)
    train_here(runs / "killed", max_train_steps=1)


def test_beside_every_pipeline_stands_what_its_weights_are_of(runs):
    folder = train_here(runs / "stated", max_train_steps=4, checkpointing_steps=2, checkpoints_total_limit=0)
    for pipeline, step in ((folder, 4), (folder / "checkpoint-2", 2), (folder / "checkpoint-4", 4)):
        state = json.loads((pipeline / "training_state.json").read_text())
        weights = weights_checksum(network_weights(pipeline))
        assert state.pop("options")["max_train_steps"] == 4 and state.pop("history") == []
        assert state == {"weights": weights, "step": step, "images_seen": 16 * step}


def test_one_process_trains_with_one_precision_after_another_and_outside_the_main_thread(runs):
    """As in a notebook; accelerate would keep the first precision."""
    for number, precision in enumerate((None, "bf16", "no")):
        train_here(runs / f"precision-{number}", max_train_steps=1, mixed_precision=precision)
    failed = []

    def work():
        try:
            train(small_config(runs / "thread", max_train_steps=1))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed and (runs / "thread" / WEIGHTS).exists()
