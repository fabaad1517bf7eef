"""An output folder that others use as well: other programs, other trainings, and the pictures."""

import json

import pytest
from conftest import FLOWERS
from PIL import Image
from training_runs import WEIGHTS, metrics, small_config, train_here

from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.training.output import RECORD
from flower_ddim.training.trainer import Trainer


@pytest.fixture(scope="module")
def pictures(runs):
    """Sixteen pictures."""
    return [Image.fromarray(pixels) for pixels in decode_images(open_dataset(data_dir=str(FLOWERS)), 16)[range(16)]]


def save_pictures(pictures, folder):
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
    return folder


def test_a_training_that_was_prepared_before_another_finished_there_is_refused(runs):
    for resume in ("latest", None):
        folder = runs / f"overtaken-{resume}"
        late = Trainer(small_config(folder, resume_from_checkpoint=resume))
        train_here(folder, max_train_steps=2)
        record = (folder / RECORD).read_text()
        with pytest.raises(ValueError, match="Another training has written to .* meanwhile: start this one again"):
            late.train()
        assert (folder / RECORD).read_text() == record
    train_here(folder, max_train_steps=1, overwrite_output_dir=True)


@pytest.mark.parametrize(
    "options", [{}, {"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}], ids=str
)
@pytest.mark.parametrize("state", [None, {"global_step": 500}])
def test_checkpoints_of_another_program_are_a_refusal_that_names_them(runs, state, options):
    folder = runs / "of-transformers" / str(state) / str(options)
    (folder / "checkpoint-500").mkdir(parents=True)
    (folder / "checkpoint-500" / "model.safetensors").write_text("theirs")
    if state:
        (folder / "checkpoint-500" / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="checkpoint-500 was not written by a training"):
        train_here(folder, **options)
    assert (folder / "checkpoint-500" / "model.safetensors").read_text() == "theirs"


def test_overwriting_leaves_the_users_files_in_checkpoints(runs):
    folder = train_here(runs / "annotated", max_train_steps=2)
    (folder / "checkpoint-2" / "notes.txt").write_text("mine")
    (folder / ".checkpoint-mine").mkdir()
    for _ in range(2):
        train_here(folder, max_train_steps=1, overwrite_output_dir=True)
        assert [path.name for path in (folder / "checkpoint-2").iterdir()] == ["notes.txt"]
        assert (folder / ".checkpoint-mine").exists()


def test_a_model_is_not_overwritten_by_a_training_that_begins_from_it(runs):
    folder = train_here(runs / "begun-from", max_train_steps=1)
    other = {"block_out_channels": None, "layers_per_block": None, "overwrite_output_dir": True}
    for option, name in (("init_from", "."), ("init_from", "checkpoint-1"), ("model_config_name_or_path", "unet")):
        with pytest.raises(ValueError, match=f"`{option}` .* lies in `output_dir`"):
            train_here(folder, **other, **{option: str(folder / name)})
    assert (folder / WEIGHTS).exists() and (folder / "checkpoint-1").exists()


def test_files_that_appear_under_the_names_of_drawings_do_not_cost_the_training(runs, caplog):
    folder = runs / "appearing"
    trainer = Trainer(small_config(folder, max_train_steps=2, save_images_steps=1))
    folder.mkdir()
    (folder / "loss.png").write_text("mine")
    (folder / "samples.png").write_text("mine")
    (folder / "samples").write_text("mine")
    trainer.train()
    trainer.output.unlock()
    assert (folder / WEIGHTS).exists() and list(metrics(folder)) == [1, 2]
    assert all((folder / name).read_text() == "mine" for name in ("loss.png", "samples.png", "samples"))
    for name in ("The loss curve", "samples.png", "samples/step-0000001.png"):
        assert f"{name} could not be made (" in caplog.text


def test_a_failure_is_told_also_where_the_loss_curve_cannot_be_drawn(runs):
    folder = runs / "failing"
    trainer = Trainer(small_config(folder, learning_rate=1e30, max_train_steps=30))
    folder.mkdir()
    (folder / "loss.png").write_text("mine")
    with pytest.raises(FloatingPointError, match="training has diverged"):
        trainer.train()
    trainer.output.unlock()


@pytest.mark.parametrize("inside", [".", "samples"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_among_the_pictures_does_not_lead_into_the_output_folder(runs, pictures, inside, exists):
    name = f"linked-{inside.strip('.')}-{exists}"
    folder = save_pictures(pictures, runs / name)
    (folder / "more").mkdir()
    output_dir = runs / f"{name}-out"
    if exists:
        (output_dir / inside).mkdir(parents=True)
    (folder / "more" / "link").symlink_to(output_dir / inside)
    (folder / "more" / "circle").symlink_to(folder)
    with pytest.raises(ValueError, match="A link in the folder of the pictures, .* leads into `output_dir`"):
        train_here(output_dir, train_data_dir=str(folder))
    (folder / "more" / "link").unlink()
    train_here(output_dir, train_data_dir=str(folder), train_batch_size=4, max_train_steps=1)


def test_a_training_does_not_take_its_samples_for_pictures(runs):
    folder = train_here(runs / "own-samples", max_train_steps=2, save_images_steps=1)
    with pytest.raises(ValueError, match="samples, holds what a training has written to `output_dir`"):
        train_here(folder, train_data_dir=str(folder / "samples"), overwrite_output_dir=True)
    assert len(list((folder / "samples").iterdir())) == 2


def test_drawings_take_the_place_of_earlier_ones_when_they_are_whole(runs):
    """A second name of the old file tells whether it was written into."""
    folder = train_here(runs / "redrawn", max_train_steps=1)
    before = {name: (folder / name).read_bytes() for name in ("samples.png", "loss.png")}
    for name in before:
        (folder / f"old-{name}").hardlink_to(folder / name)
    train_here(folder, max_train_steps=3, resume_from_checkpoint="latest")
    for name, content in before.items():
        assert (folder / f"old-{name}").read_bytes() == content != (folder / name).read_bytes()
