import json
import shutil

import pytest

from flower_ddim.training import checkpoints


def write(output_dir, step, content="weights"):
    folder = checkpoints.unfinished_folder(output_dir, step) / "state"
    folder.mkdir(parents=True)
    (folder / "model").write_text(content)
    return checkpoints.finish_checkpoint(output_dir, step, {"seed": 1})


def load(checkpoint):
    states = []
    checkpoints.read_checkpoint(checkpoint, states.append)
    return states[0]


def test_a_finished_checkpoint_can_be_found_and_read(tmp_path):
    for step in (2, 10, 9):
        write(tmp_path, step)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [
        "checkpoint-2",
        "checkpoint-9",
        "checkpoint-10",
    ]
    newest = checkpoints.find_checkpoint(tmp_path, "latest")
    assert newest.name == "checkpoint-10" and load(newest)["step"] == 10 and load(newest)["seed"] == 1
    assert checkpoints.find_checkpoint(tmp_path, None) is None
    assert checkpoints.find_checkpoint(tmp_path / "empty", "latest") is None
    for wanted in ("checkpoint-2", str(tmp_path / "checkpoint-2")):
        assert checkpoints.find_checkpoint(tmp_path, wanted) == tmp_path / "checkpoint-2"


def test_what_is_not_finished_does_not_count_and_is_discarded(tmp_path):
    write(tmp_path, 1)
    (checkpoints.unfinished_folder(tmp_path, 2) / "state").mkdir(parents=True)
    (tmp_path / "checkpoint-3").mkdir()  # being removed, or never one
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["checkpoint-1"]
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        checkpoints.find_checkpoint(tmp_path, str(tmp_path / "checkpoint-3"))
    checkpoints.discard_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3"]


def test_the_remnant_of_a_removed_checkpoint_is_not_in_the_way(tmp_path):
    (write(tmp_path, 1) / checkpoints.STATE_FILE).unlink()
    again = write(tmp_path, 1, "other weights")
    load(again)
    assert (again / "state" / "model").read_text() == "other weights"


def test_what_a_removal_leaves_when_it_is_interrupted_is_discarded(tmp_path, monkeypatch):
    write(tmp_path, 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", interrupt)
        checkpoints.remove_checkpoint(tmp_path / "checkpoint-1")
    assert not checkpoints.list_checkpoints(tmp_path) and len(list(tmp_path.iterdir())) == 1
    checkpoints.discard_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())


def interrupt(folder):
    next(path for path in folder.rglob("*") if path.is_file()).unlink()
    raise KeyboardInterrupt


def test_rotation_keeps_the_newest(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    checkpoints.rotate_checkpoints(tmp_path, 0)
    assert len(checkpoints.list_checkpoints(tmp_path)) == 4
    checkpoints.rotate_checkpoints(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]


def test_going_on_from_an_older_one_sets_the_newer_aside(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    checkpoints.set_later_checkpoints_aside(tmp_path / "checkpoint-1")
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["checkpoint-1"]
    assert (tmp_path / "abandoned-checkpoint-3" / "state" / "model").exists()


@pytest.mark.parametrize("damage", ["changed", "missing", "state"])
def test_damage_is_found_and_another_checkpoint_named(tmp_path, damage):
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    if damage == "changed":
        (newest / "state" / "model").write_text("weighty")  # of the same length
    elif damage == "missing":
        (newest / "state" / "model").unlink()
    else:
        (newest / checkpoints.STATE_FILE).write_text(json.dumps({"step": 2})[:-4])
    with pytest.raises(ValueError, match=r"checkpoint-2 is damaged .*resume from checkpoint-1"):
        load(newest)
    with pytest.raises(ValueError, match="no other one"):
        (tmp_path / "checkpoint-1" / checkpoints.STATE_FILE).unlink()
        load(newest)


def test_files_of_the_users_in_a_checkpoint_stay_when_it_is_removed(tmp_path):
    write(tmp_path, 1)
    for name in ("notes.txt", "mine/notes.txt"):
        (tmp_path / "checkpoint-1" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "checkpoint-1" / name).write_text("mine")
    checkpoints.remove_checkpoint(tmp_path / "checkpoint-1")
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["checkpoint-1/mine/notes.txt", "checkpoint-1/notes.txt"]
    assert not (tmp_path / "checkpoint-1" / "state").exists() and not checkpoints.list_checkpoints(tmp_path)


def test_a_damaged_checkpoint_is_set_aside_and_not_removed(tmp_path):
    (write(tmp_path, 1) / checkpoints.STATE_FILE).write_text('{"sha')
    checkpoints.remove_checkpoint(tmp_path / "checkpoint-1")
    assert [path.name for path in tmp_path.iterdir()] == ["abandoned-checkpoint-1"]
    assert (tmp_path / "abandoned-checkpoint-1" / "state" / "model").exists()


def test_what_was_set_aside_earlier_stays(tmp_path):
    (tmp_path / "abandoned-checkpoint-2").mkdir()
    (tmp_path / "abandoned-checkpoint-2" / "notes.txt").write_text("mine")
    for number in (2, 3):
        for step in (1, 2):
            write(tmp_path, step)
        checkpoints.set_later_checkpoints_aside(tmp_path / "checkpoint-1")
        assert (tmp_path / f"abandoned-checkpoint-2-{number}" / "state" / "model").exists()
        checkpoints.remove_checkpoint(tmp_path / "checkpoint-1")
    assert (tmp_path / "abandoned-checkpoint-2" / "notes.txt").read_text() == "mine"


def test_checkpoints_of_other_programs_are_none_of_ours(tmp_path):
    for name in ("checkpoint-500", ".checkpoint-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / checkpoints.STATE_FILE).write_text('{"global_step": 500}')  # as transformers writes it
    checkpoints.discard_unfinished(tmp_path)
    assert not checkpoints.list_checkpoints(tmp_path) and (tmp_path / ".checkpoint-mine").exists()
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        checkpoints.find_checkpoint(tmp_path, "checkpoint-500")
