import pytest
from conftest import FLOWERS
from datasets import Dataset
from pictures import stripes

from flower_ddim.data.sources import image_column, open_dataset, open_splits, split_train_validation


@pytest.fixture
def cache(tmp_path):
    return {"cache_dir": str(tmp_path / "cache")}


@pytest.mark.parametrize("streaming", [False, True])
def test_neither_names_of_files_nor_what_lies_beside_them_lose_a_picture(tmp_path, cache, monkeypatch, streaming):
    folder = tmp_path / "imagefolder"  # which is also what a part of `datasets` is called
    (folder / "roses").mkdir(parents=True)
    for name in ("one.png", "train-station.png", "test.png", "dev_sunset.jpg", "roses/validation 3.png"):
        stripes(10, 10).save(folder / name)
    (folder / "one.txt").write_text("a caption")
    (folder / "generation.json").write_text("{}")
    stripes(10, 10).save(tmp_path / "elsewhere.png")
    monkeypatch.chdir(tmp_path)
    splits = open_splits(data_dir="imagefolder", streaming=streaming, **cache)
    assert {name: len(list(split)) for name, split in splits.items()} == {"train": 5}


def test_folders_are_splits_where_one_is_for_training(tmp_path, cache):
    for name, count in {"Train/roses": 3, "val": 2, "test": 1}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(count):
            stripes(10, 10).save(tmp_path / "data" / name / f"{i}.png")
    splits = open_splits(data_dir=str(tmp_path / "data"), **cache)
    assert {name: len(split) for name, split in splits.items()} == {"train": 3, "validation": 2, "test": 1}


def test_a_split_that_is_missing_is_set_aside_reproducibly():
    dataset = Dataset.from_dict({"number": list(range(50))})
    train, validation = split_train_validation(dataset, 0.1, seed=0)
    assert len(validation) == 5 and sorted([*train["number"], *validation["number"]]) == list(range(50))
    assert split_train_validation(dataset, 0.1, seed=0)[1]["number"][:] == validation["number"][:]
    assert split_train_validation(dataset, 0.1, seed=1)[1]["number"][:] != validation["number"][:]
    assert len(split_train_validation(dataset.select(range(2)), 0.9, seed=0)[0]) == 1
    with pytest.raises(ValueError, match="validation_epochs 0"):
        split_train_validation(dataset.select(range(1)), 0.5, seed=0)


def test_image_column_of_any_name():
    dataset = Dataset.from_dict({"text": ["a"], "picture": [stripes(4, 4)]})
    assert image_column(dataset) == "picture"


def test_unusable_sources_are_explained(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        open_dataset(data_dir=str(tmp_path / "missing"), **cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        open_dataset(data_dir=str(tmp_path / "empty"), **cache)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "train.csv").write_text("title,petals\nrose,30\n")
    with pytest.raises(ValueError, match="no image column, only title, petals"):
        open_dataset(data_dir=str(tmp_path / "notes"), **cache)
    with pytest.raises(ValueError, match="no split 'test'; it has train"):
        open_dataset(data_dir=str(FLOWERS), split="test", **cache)
    for sources in ({}, {"dataset_name": "a/b", "data_dir": str(tmp_path)}):
        with pytest.raises(ValueError, match="either as `dataset_name`"):
            open_dataset(**sources, **cache)
