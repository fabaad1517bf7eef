"""Trainings that learn classes."""

import json

import pytest
import torch
from conftest import FLOWERS, load_pipeline, make_unet, seeds
from pictures import confetti
from training_runs import LAST_WEIGHTS, assert_same_weights, small_config, train_here

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.training.trainer import Trainer


LEARNING = {"class_conditional": True, "class_dropout": 0.3}


def save_classes(folder, **counts):
    """Pictures of random colours in a folder for each class."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            confetti(16, 16, seed=len(name) + i).save(folder / name / f"{i}.png")
    return str(folder)


def test_the_classes_of_the_pictures_can_be_generated_by_name(runs):
    folder = train_here(runs / "classes", **LEARNING, validation_epochs=1, growth_steps=[2])
    pipe = load_pipeline(folder)
    assert len(pipe.labels) == 102 and pipe.labels["sunflower"] == pipe.get_label_ids("Sun-Flower")[0]
    one = pipe(class_labels="sunflower", generator=seeds(0), num_inference_steps=2, output_type="pt").images
    assert not torch.equal(one, pipe(generator=seeds(0), num_inference_steps=2, output_type="pt").images)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"validation_loss", "validation_loss_without_labels", "validation_loss_ema_without_labels"} <= last.keys()
    assert last["validation_loss"] != last["validation_loss_without_labels"]


def test_labels_are_left_out_at_random_within_a_batch_and_always_the_same(runs):
    trainer = Trainer(small_config(runs / "dropout", **LEARNING))
    labels = torch.cat([trainer.learner.batches.training(step)[3] for step in range(50)])
    assert labels.dtype == torch.int64 and labels.min() >= 0
    assert (labels == 102).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(trainer.learner.batches.training(7)[3], labels[7 * 16 : 8 * 16])
    whole = Trainer(small_config(runs / "all", class_conditional=True, class_dropout=0.0))
    kept = torch.cat([whole.learner.batches.training(step)[3] for step in range(50)])
    assert kept.max() < 102 and torch.equal(torch.where(labels == 102, kept, labels), kept)


def test_a_resumed_training_goes_on_to_the_bit(runs):
    whole = train_here(runs / "whole", **LEARNING)
    train_here(runs / "parts", **LEARNING, max_train_steps=4)
    parts = train_here(runs / "parts", **LEARNING, resume_from_checkpoint="latest")
    assert_same_weights(*(folder / "checkpoint-8" / LAST_WEIGHTS for folder in (whole, parts)))


def test_other_classes_are_another_training(runs):
    options = LEARNING | {"train_batch_size": 4, "max_train_steps": 4}
    few = save_classes(runs / "few", lily=4, rose=4)
    train_here(runs / "of-two", train_data_dir=few, **options)
    save_classes(runs / "few" / "..", **{"more/lily": 4, "more/rose": 4, "more/tulip": 4})
    with pytest.raises(ValueError, match="class_names .*'lily', 'rose'.* there"):
        train_here(
            runs / "of-two",
            train_data_dir=str(runs / "more"),
            **options | {"max_train_steps": 8},
            resume_from_checkpoint="latest",
        )
    with pytest.raises(ValueError, match="class_conditional True there, False here"):
        train_here(
            runs / "of-two", train_data_dir=few, max_train_steps=8, train_batch_size=4, resume_from_checkpoint="latest"
        )


def test_an_unconditional_model_learns_classes_from_its_first_prediction_on(runs, noise):
    unet = make_unet(block_out_channels=(8, 16))
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler()).save_pretrained(runs / "before")
    options = LEARNING | {"init_from": str(runs / "before"), "block_out_channels": None, "layers_per_block": None}
    trainer = Trainer(small_config(runs / "after", **options))
    labelled = trainer.learner.raw_unet.eval()
    with torch.no_grad():
        torch.testing.assert_close(labelled(noise, 7, torch.tensor([5, 102])).sample, unet(noise, 7).sample)
    train_here(runs / "after", **options)
    # Fewer classes than it knows: all begin as its null class.
    again = options | {"init_from": str(runs / "after"), "train_data_dir": save_classes(runs / "two", a=8, b=8)}
    relabelled = Trainer(small_config(runs / "again", **again)).learner.raw_unet.eval()
    known = load_pipeline(runs / "after").unet
    with torch.no_grad():
        expected = known(noise, 7).sample
        torch.testing.assert_close(relabelled(noise, 7, torch.tensor([0, 1])).sample, expected)
    with pytest.raises(ValueError, match="knows classes: give `--class_conditional`"):
        Trainer(small_config(runs / "without", **again | {"class_conditional": False}))


def test_pictures_for_validation_of_unknown_classes_are_left_out(runs, caplog):
    data = runs / "splits"
    save_classes(data / "train", lily=8, rose=8)
    save_classes(data / "validation", lily=2, tulip=3)
    trainer = Trainer(small_config(runs / "known", train_data_dir=str(data), **LEARNING, validation_epochs=1))
    assert "3 of 5 pictures for validation are of classes that those for training lack" in caplog.text
    assert trainer.pictures.validation_labels.tolist() == [0, 0] and len(trainer.pictures.validation) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"label_column": "label"}, "`label_column` names the classes of `class_conditional`"),
        ({"class_conditional": True, "class_dropout": 1.0}, "`class_dropout` is 1.0, but must be less than 1"),
        ({"class_conditional": True, "class_dropout": -0.1}, "`class_dropout` is -0.1, but must be at least 0"),
        ({"class_conditional": True, "label_column": "kind"}, "`label_column` is kind, but the columns are image"),
        ({"class_conditional": True, "label_column": "image"}, "`label_column` image holds"),
    ],
)
def test_options_that_tell_no_classes_are_refused(runs, changes, message):
    with pytest.raises(ValueError, match=message):
        Trainer(small_config(runs / "refused", train_data_dir=str(FLOWERS), **changes))
