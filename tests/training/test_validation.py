import json
import shutil

import pytest
import torch
from conftest import ROOT
from PIL import Image as PILImage
from safetensors.torch import load_file
from training_runs import metrics, small_config, train_here, words

from flower_ddim import FlowerDDIMPipeline
from flower_ddim.training.trainer import Trainer


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def options(tiny_extractor):
    """An epoch of two steps, and a learning rate that soon makes the model worse."""
    watch = {"eval_kid_epochs": 1, "eval_kid_images": 8, "eval_kid_extractor": tiny_extractor}
    return watch | {"validation_epochs": 1, "dataset_repeats": 1, "train_batch_size": 32, "checkpointing_steps": 3}


@pytest.fixture(scope="module")
def watched(runs, options):
    return train_here(runs / "watched", **options)


def test_the_pipeline_of_the_lowest_kid_is_kept(watched, runs, options):
    kid = metrics(watched, "kid")
    assert list(kid) == [3, 6, 8]  # the ends of two epochs, and of the training
    assert list(metrics(watched, "kid_std")) == [3, 6, 8]
    assert len(set(kid.values())) == 3
    best = min(kid, key=kid.get)
    FlowerDDIMPipeline.from_pretrained(watched / "best")
    until_then = train_here(runs / "until-then", **options | {"max_train_steps": best})
    one, other = (load_file(folder / "best" / WEIGHTS) for folder in (watched, until_then))
    assert all((one[name] == other[name]).all() for name in one)


def test_trainings_of_other_seeds_have_the_same_noise_and_times_in_validation(runs):
    trainers = [Trainer(small_config(runs / f"seed-{seed}", seed=seed, validation_epochs=1)) for seed in (3, 4)]
    (_, noise, times, _), (_, other_noise, other_times, _) = (
        trainer.learner.batches.validation(range(8)) for trainer in trainers
    )
    assert torch.equal(noise, other_noise) and torch.equal(times, other_times)
    # They lie evenly: the farthest neighbours of eight are not twice an eighth apart.
    assert times.sort().values.diff().max() < 2 / 8


def test_the_training_goes_on_as_if_nobody_watched(watched, runs, options):
    unwatched = train_here(runs / "unwatched", **options | {"eval_kid_epochs": 0})
    assert metrics(unwatched) == metrics(watched)
    assert not (unwatched / "best").exists() and not metrics(unwatched, "kid")


def test_a_resumed_run_still_knows_the_best(watched, runs, options):
    resumed = runs / "resumed"
    shutil.copytree(watched, resumed)
    train_here(resumed, **options, resume_from_checkpoint=str(resumed / "checkpoint-6"))
    assert metrics(resumed, "kid") == pytest.approx(metrics(watched, "kid"), abs=1e-6)
    one, other = (load_file(folder / "best" / WEIGHTS) for folder in (watched, resumed))
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize("step", [6, 8])
def test_what_a_killed_run_did_not_come_to_measure_is_made_up_for(watched, runs, options, step):
    """It had saved the checkpoint of this step, and is killed before the evaluation is in the log."""
    killed = shutil.copytree(watched, runs / f"killed-at-{step}")
    log = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in log if '"loss"' in line or f'"step": {step},' not in line]
    assert len(kept) == len(log) - 2
    (killed / "metrics.jsonl").write_text("".join(kept))
    train_here(killed, **options, resume_from_checkpoint=f"checkpoint-{step}")
    for name in ("validation_loss", "kid"):
        assert metrics(killed, name) == pytest.approx(metrics(watched, name), abs=1e-6)


def test_a_model_is_scored_on_what_its_training_kept_for_validation(watched, tiny_extractor, run_script, tmp_path):
    source = ["--training", watched, "--extractor", tiny_extractor]
    completed = run_script("evaluate.py", "reference", *source, "--output", tmp_path / "ref.safetensors")
    assert "13 pictures (watched, kept for validation, 16×16 pixels)" in completed.stdout  # a tenth of 128
    options = ["--model", watched, "--num_images", 6, "--num_inference_steps", 2, "--output_dir", tmp_path / "out"]
    completed = run_script("evaluate.py", "overfitting", *source, *options)
    numbers = json.loads((tmp_path / "out" / "overfitting.json").read_text())["memorization"]
    assert numbers["training_images"] == 115 and numbers["held_out_images"] == 13
    source = ["--training", tmp_path / "out", "--output", tmp_path / "none"]
    completed = run_script("evaluate.py", "reference", *source, expect_success=False)
    assert "name the `output_dir` of a training" in completed.stderr and not (tmp_path / "none").exists()


def test_a_model_is_not_scored_on_pictures_of_its_training_that_have_changed(run_script, tmp_path):
    """One picture more, and the same seed would set others aside, some of which the model has seen."""
    (pictures := tmp_path / "pictures").mkdir()
    for number in range(20):
        PILImage.effect_noise((16, 16), 10 + number).save(pictures / f"{number}.png")
    trained = train_here(tmp_path / "trained", train_data_dir=str(pictures), validation_epochs=1, max_train_steps=1)
    PILImage.effect_noise((16, 16), 64).save(pictures / "one-more.png")
    options = ["--training", trained, "--output", tmp_path / "none"]
    told = run_script("evaluate.py", "reference", *options, expect_success=False).stderr
    assert "they were 18 and 2 for validation, and are 19 and 2 for validation): give `--data`" in told
    assert not (tmp_path / "none").exists()


def test_two_processes_measure_the_same(watched, options, launch_two, tmp_path):
    changed = options | {"train_batch_size": 16, "max_train_steps": 3, "use_ema": False, "learning_rate": 0}
    one = train_here(tmp_path / "one", **changed | {"train_batch_size": 32})
    launch_two(ROOT / "scripts" / "train.py", *words(tmp_path / "two", **changed))
    assert metrics(tmp_path / "two", "kid") == pytest.approx(metrics(one, "kid"), abs=1e-3)


def test_what_cannot_be_measured_is_said_before_the_training(runs, options):
    with pytest.raises(ValueError, match="use efficientnet_lite0"):
        Trainer(small_config(runs / "no-network", **options | {"eval_kid_extractor": "/no/such/model"}))
    with pytest.raises(ValueError, match="eval_kid_epochs"):
        small_config(runs / "no-pictures", **options | {"validation_epochs": 0})
    assert not (runs / "no-network").exists()
