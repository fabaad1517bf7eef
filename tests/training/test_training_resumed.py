"""Going on with a training, in this process: as if nothing had happened, or refused with the way out."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from training_runs import LAST_WEIGHTS, WEIGHTS, assert_same_weights, metrics, small_config, train_here

from flower_ddim import FlowerDDIMPipeline
from flower_ddim.hub.model_card import render_model_card
from flower_ddim.hub.records import ModelRecords
from flower_ddim.training.trainer import Trainer


@pytest.fixture(scope="module")
def trained(runs):
    """Output folder of eight steps."""
    return train_here(runs / "trained")


def test_a_growing_run_can_be_resumed_and_its_checkpoints_generate_full_size(runs):
    options = {"block_out_channels": [8, 8, 16], "growth_steps": [2, 1], "max_train_steps": 5, "optimizer": "muon"}
    options |= {"checkpointing_steps": 2, "checkpoints_total_limit": 0}
    folder = train_here(runs / "grown", **options)
    assert len(metrics(folder)) == 5
    early = FlowerDDIMPipeline.from_pretrained(folder / "checkpoint-2")
    assert early(num_inference_steps=1).images[0].size == (16, 16)
    resumed = train_here(runs / "regrown", **options, resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert metrics(resumed) == {step: loss for step, loss in metrics(folder).items() if step > 2}
    with pytest.raises(ValueError, match=r"growth_steps \[2, 1\] there, None here"):
        train_here(folder, **options | {"growth_steps": [0]}, resume_from_checkpoint="latest")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_by_bit(runs, accumulation):
    """Step 5 lies in the middle of a pass of 8 or 4 batches."""
    options = {"gradient_accumulation_steps": accumulation, "random_flip": True, "checkpointing_steps": 5}
    options |= {"max_train_steps": 10, "lr_scheduler": "cosine"}
    whole = train_here(runs / f"whole{accumulation}", **options)
    resumed = train_here(runs / f"resumed{accumulation}", **options, checkpoints_total_limit=0)
    for path in resumed.glob("checkpoint-10/*"):  # as if the run had died in its eighth step
        path.rename(path.parent / f".{path.name}") if path.name == "trainer_state.json" else None
    (resumed / WEIGHTS).unlink()
    train_here(resumed, **options, resume_from_checkpoint="latest")
    assert metrics(resumed) == metrics(whole) and metrics(resumed, "lr") == metrics(whole, "lr")
    assert_same_weights(whole / WEIGHTS, resumed / WEIGHTS)
    assert_same_weights(whole / "checkpoint-10" / LAST_WEIGHTS, resumed / "checkpoint-10" / LAST_WEIGHTS)


def test_when_its_time_is_up_all_is_saved_and_it_can_go_on(runs, caplog):
    options = {"max_train_steps": 100_000, "max_train_minutes": 0.02, "checkpointing_steps": 100_000}
    folder = train_here(runs / "timed", **options)
    (checkpoint,) = folder.glob("checkpoint-*")
    assert "because its time is up; resume with `--resume_from_checkpoint latest`" in caplog.text
    assert Image.open(folder / "samples.png").size == (32, 32)
    assert_same_weights(folder / WEIGHTS, checkpoint / WEIGHTS)
    train_here(folder, **options, resume_from_checkpoint="latest")
    assert len(metrics(folder)) > int(checkpoint.name.split("-")[1])


def test_another_target_or_average_is_not_resumed_with(runs):
    train_here(runs / "target", max_train_steps=4)
    for changes in ({"prediction_type": "v_prediction"}, {"use_ema": False}, {"schedule": "linear"}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))} .* there, .* here"):
            train_here(runs / "target", resume_from_checkpoint="latest", **changes)


def test_going_on_from_an_older_checkpoint_leaves_the_newer_ones_out_of_the_way(runs):
    folder = train_here(runs / "older", checkpoints_total_limit=2)
    train_here(
        folder, resume_from_checkpoint=str(folder / "checkpoint-4"), max_train_steps=6, checkpoints_total_limit=2
    )
    assert sorted(path.name for path in folder.glob("*checkpoint-*")) == [
        "abandoned-checkpoint-8",
        "checkpoint-4",
        "checkpoint-6",
    ]


def test_a_run_that_died_before_its_first_checkpoint_starts_again(runs):
    (runs / "early").mkdir()
    (runs / "early" / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    train_here(runs / "early", max_train_steps=1, resume_from_checkpoint="latest")
    assert list(metrics(runs / "early")) == [1] and metrics(runs / "early")[1] > 0.7


def test_a_diverging_run_stops_names_the_step_and_keeps_the_checkpoint(runs):
    train_here(runs / "diverging", max_train_steps=4)
    options = {"resume_from_checkpoint": "latest", "learning_rate": 1e30, "max_train_steps": 12}
    with pytest.raises(FloatingPointError, match=r"The loss of step ([5-9]|1\d) was"):
        train_here(runs / "diverging", **options, logging_steps=3, checkpointing_steps=3)
    assert [path.name for path in (runs / "diverging").glob("*checkpoint-*")] == ["checkpoint-4"]
    train_here(runs / "diverging", resume_from_checkpoint="latest")


def test_earlier_trainings_are_not_mixed_up_or_deleted_unasked(trained):
    with pytest.raises(ValueError, match="holds an earlier training"):
        train_here(trained)
    assert (trained / "checkpoint-8").exists()


def test_a_run_does_not_go_on_in_the_folder_of_another(runs):
    train_here(runs / "occupied", max_train_steps=2)
    there = str(train_here(runs / "elsewhere", max_train_steps=3) / "checkpoint-3")
    with pytest.raises(ValueError, match="holds another training than .*checkpoint-3"):
        train_here(runs / "occupied", resume_from_checkpoint=there)
    assert list(metrics(runs / "occupied")) == [1, 2]
    assert list(metrics(train_here(runs / "branched", resume_from_checkpoint=there, max_train_steps=4))) == [4]


def test_a_finished_training_without_its_checkpoints_is_not_begun_anew(runs):
    folder = train_here(runs / "cleaned", max_train_steps=2)
    shutil.rmtree(folder / "checkpoint-2")
    for length in ({"max_train_steps": 2}, {"max_train_steps": None, "num_epochs": 1}):
        with pytest.raises(ValueError, match="holds a model without checkpoints"):
            train_here(folder, resume_from_checkpoint="latest", **length)
    assert list(metrics(folder)) == [1, 2]


def test_a_model_that_was_not_trained_here_is_not_overwritten(trained, runs):
    FlowerDDIMPipeline.from_pretrained(trained).save_pretrained(runs / "downloaded")
    with pytest.raises(ValueError, match="holds an earlier training or a model"):
        train_here(
            runs / "downloaded", init_from=str(runs / "downloaded"), block_out_channels=None, layers_per_block=None
        )


def test_pictures_are_counted_rightly_when_the_batch_changes_on_the_way(runs, caplog):
    train_here(runs / "recounted", max_train_steps=2)
    train_here(runs / "recounted", max_train_steps=4, train_batch_size=4, resume_from_checkpoint="latest")
    assert list(metrics(runs / "recounted", "images").values()) == [16, 32, 36, 40]
    assert "`global_batch` 16, this run has 4: data order changes" in caplog.text


def test_a_folder_with_a_model_has_a_checkpoint_too(runs):
    options = {"checkpointing_steps": 100, "checkpoints_total_limit": 0, "save_model_epochs": 1, "dataset_repeats": 1}
    folder = train_here(runs / "saved", max_train_steps=9, **options)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-8", "checkpoint-9"]


def test_a_run_goes_on_with_the_optimizer_that_it_began_with(trained):
    with pytest.raises(ValueError, match="optimizer adamw there, muon here.*--init_from"):
        train_here(trained, resume_from_checkpoint="latest", optimizer="muon")


def test_overwriting_starts_anew(runs):
    train_here(runs / "again")
    train_here(runs / "again", overwrite_output_dir=True, max_train_steps=2)
    assert list(metrics(runs / "again")) == [1, 2] and not (runs / "again" / "checkpoint-8").exists()


def test_fewer_steps_than_were_made_are_refused_and_nothing_is_rewritten(trained):
    before = (trained / "training.yaml").read_text()
    with pytest.raises(ValueError, match="has made 8 steps, more than the 5 of this run"):
        train_here(trained, resume_from_checkpoint="latest", max_train_steps=5, learning_rate=5e-4)
    assert (trained / "training.yaml").read_text() == before


def test_other_options_are_told_with_both_values_and_kept_in_the_record(runs, caplog):
    folder = train_here(runs / "changed", max_train_steps=4, lr_scheduler="cosine")
    train_here(
        folder, resume_from_checkpoint="latest", lr_scheduler="cosine", adam_weight_decay=0.5, learning_rate=5e-4
    )
    assert "Resuming with `learning_rate` 0.0005; it was 0.001 until step 4" in caplog.text
    assert "Resuming with `adam_weight_decay` 0.5; it was 0.0001 until step 4" in caplog.text
    assert "Resuming with `max_train_steps` 8; it was 4 until step 4" in caplog.text
    (change,) = yaml.safe_load((folder / "training.yaml").read_text())["history"]
    assert change["until_step"] == 4
    assert change["options"] == {"adam_weight_decay": 1e-4, "learning_rate": 1e-3, "max_train_steps": 4}
    train_here(folder, resume_from_checkpoint="latest", learning_rate=1e-3, max_train_steps=9)
    assert len(yaml.safe_load((folder / "training.yaml").read_text())["history"]) == 2


def files_of(folder):
    """All files but the drawing, the record of files and what the lock leaves, with what is in them."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder): path.read_bytes() for path in files if path.name != "loss.png"}


def test_a_run_that_has_made_all_steps_says_so_and_writes_nothing(runs, caplog):
    folder = train_here(runs / "done", max_train_steps=2)
    before = files_of(folder)
    train_here(folder, max_train_steps=2, resume_from_checkpoint="latest", learning_rate=5e-4)
    assert "Nothing is left to do" in caplog.text and "Resuming with" not in caplog.text
    assert files_of(folder) == before


def test_the_pipeline_that_a_killed_run_did_not_save_is_that_of_its_own_options(runs):
    folder = train_here(runs / "unsaved", max_train_steps=2)
    before = files_of(folder)
    (folder / WEIGHTS).unlink()
    (folder / "training_state.json").unlink()
    train_here(folder, max_train_steps=2, resume_from_checkpoint="latest", learning_rate=5e-4)
    assert files_of(folder) == before


def test_going_back_to_where_nothing_is_left_to_do_is_refused(runs):
    folder = train_here(runs / "back", max_train_steps=4, checkpointing_steps=2, checkpoints_total_limit=0)
    before = files_of(folder)
    with pytest.raises(ValueError, match="checkpoint-2 has made all 2 steps of this run, and a newer one lies beside"):
        train_here(folder, max_train_steps=2, resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert files_of(folder) == before


def test_the_card_of_a_pipeline_tells_of_its_own_options(runs):
    """Also after a run that went on with others and was stopped before it saved its own."""
    folder = train_here(runs / "stopped", max_train_steps=2, learning_rate=2e-3)
    trainer = Trainer(small_config(folder, max_train_steps=9, learning_rate=5e-4, resume_from_checkpoint="latest"))
    trainer._begin()  # and is killed
    trainer.output.unlock()
    card = card_of(folder)
    assert "| learning_rate | 0.002 |" in card and "| max_train_steps | 2 |" in card and "2 optimizer steps" in card
    train_here(folder, max_train_steps=3, learning_rate=5e-4, resume_from_checkpoint="latest")
    card = card_of(folder)
    assert "| learning_rate | 0.002 until step 2, then 0.0005 |" in card
    assert "# until step 2 with --max_train_steps 2 --learning_rate 0.002\nflower-ddim train" in card
    assert "| learning_rate | 0.002 until step 2, then 0.0005 |" in card_of(folder / "checkpoint-3")


def card_of(folder):
    return render_model_card(ModelRecords.read(FlowerDDIMPipeline.from_pretrained(folder), folder), "x")


def test_going_back_sets_the_pipeline_of_the_abandoned_branch_aside(runs):
    options = {"checkpointing_steps": 2, "checkpoints_total_limit": 0}
    folder = train_here(runs / "gone-back", max_train_steps=4, **options)
    before = files_of(folder)
    for aside in ("abandoned-pipeline", "abandoned-pipeline-2"):
        back = {"resume_from_checkpoint": str(folder / "checkpoint-2"), "learning_rate": 5e-4, "max_train_steps": 3}
        trainer = Trainer(small_config(folder, **options, **back))
        trainer._begin()  # and is killed
        trainer.output.unlock()
        assert not (folder / "model_index.json").exists() and not (folder / "unet").exists()
        assert (folder / aside / WEIGHTS).read_bytes() == before[Path(WEIGHTS)]
        assert (folder / aside / "samples.png").exists() and (folder / aside / "training_state.json").exists()
        train_here(folder, **options, max_train_steps=4, resume_from_checkpoint="latest")
    assert (folder / "model_index.json").exists()


def test_a_finished_course_that_is_extended_jumps_and_is_told(runs, caplog):
    folder = train_here(runs / "extended", max_train_steps=4, lr_scheduler="cosine")
    train_here(folder, max_train_steps=8, lr_scheduler="cosine", resume_from_checkpoint="latest")
    assert "The learning rate jumps from 0.000146 to 0.0005 at step 5" in caplog.text


def test_a_course_of_the_learning_rate_that_jumps_is_told(runs, caplog):
    options = {"lr_scheduler": "linear", "checkpointing_steps": 3}
    folder = train_here(runs / "stretched", max_train_steps=4, **options)
    train_here(folder, resume_from_checkpoint=str(folder / "checkpoint-3"), max_train_steps=40, **options)
    assert "The learning rate jumps from 0.00025 to 0.000925 at step 4" in caplog.text


def test_going_back_sets_the_best_of_the_abandoned_branch_aside(runs, tiny_extractor):
    options = {
        "validation_epochs": 1,
        "eval_kid_epochs": 1,
        "eval_kid_images": 4,
        "eval_kid_extractor": tiny_extractor,
    }
    options |= {"dataset_repeats": 1, "checkpointing_steps": 2, "checkpoints_total_limit": 0}
    folder = train_here(runs / "branches", max_train_steps=7, **options)
    assert (folder / "best" / "model_index.json").exists()
    step = json.loads((folder / "best" / "training_state.json").read_text())["step"]
    train_here(folder, resume_from_checkpoint=str(folder / "checkpoint-2"), max_train_steps=3, **options)
    assert step > 3 and (folder / "abandoned-best" / "model_index.json").exists()
    assert json.loads((folder / "best" / "training_state.json").read_text())["step"] <= 3


def test_a_checkpoint_of_an_earlier_version_is_one_sentence(runs):
    folder = train_here(runs / "ancient", max_train_steps=1)
    path = folder / "checkpoint-1" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["global_batch"]
    path.write_text(json.dumps(state))
    train_here(folder, max_train_steps=2, resume_from_checkpoint=str(folder / "checkpoint-1"))
    del state["images_seen"]
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="did not record `images_seen`: start from its weights with `--init_from`"):
        train_here(folder, resume_from_checkpoint=str(folder / "checkpoint-1"))


def test_an_added_picture_stops_a_resume_in_plain_words(runs):
    (runs / "growing-set").mkdir()
    for i in range(21):
        Image.new("RGB", (16, 16), (10 * i, 200 - 5 * i, i)).save(runs / "growing-set" / f"{i}.png")
    options = {"train_data_dir": str(runs / "growing-set")}
    (runs / "growing-set" / "20.png").rename(runs / "20.png")
    folder = train_here(runs / "added", **options, max_train_steps=1)
    (runs / "20.png").rename(runs / "growing-set" / "20.png")
    with pytest.raises(ValueError, match=r"another training \(the pictures changed: 20, now 21\): give the same"):
        train_here(folder, **options, resume_from_checkpoint="latest")


def test_a_finished_run_of_an_earlier_version_gets_the_present_records(runs, trained):
    """Its U-Net's configuration lacks the newer entries; its state lacks the options, and there is no state beside the pipeline."""
    folder = runs / "earlier"
    shutil.copytree(trained, folder)
    checkpoint = folder / "checkpoint-8"
    config, state = checkpoint / "unet" / "config.json", checkpoint / "trainer_state.json"
    newer = ("class_embedding_dim", "class_names", "default_guidance_scale", "num_class_embeds")
    told = {name: value for name, value in json.loads(config.read_text()).items() if name not in newer}
    config.write_text(json.dumps(told))
    then = {name: value for name, value in json.loads(state.read_text()).items() if name not in ("options", "history")}
    then["sha256"]["unet/config.json"] = hashlib.sha256(config.read_bytes()).hexdigest()
    del then["sha256"]["training_state.json"]
    state.write_text(json.dumps(then))
    for path in (folder / "training_state.json", checkpoint / "training_state.json"):
        path.unlink()
    before = metrics(folder), yaml.safe_load((folder / "training.yaml").read_text())["options"]
    train_here(folder, resume_from_checkpoint="latest")
    assert (metrics(folder), yaml.safe_load((folder / "training.yaml").read_text())["options"]) == before
    assert json.loads((folder / "training_state.json").read_text())["step"] == 8
    assert_same_weights(folder / WEIGHTS, trained / WEIGHTS)
    records = ModelRecords.read(FlowerDDIMPipeline.from_pretrained(folder), folder)
    assert records.steps == 8 and records.training["options"]["max_train_steps"] == 8 and len(records.log) == 8
