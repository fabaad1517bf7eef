import json
import os

import numpy as np
import pytest
from conftest import FLOWERS
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from pictures import confetti, png, stripes
from PIL import Image

from flower_ddim.data.decoding import decode_images
from flower_ddim.data.folders import skipped_by_type
from flower_ddim.data.sources import image_column, open_dataset, open_splits, split_train_validation
from flower_ddim.data.streaming import StreamedImages


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


def save_pictures(folder, **counts):
    """Writes so many pictures into each of the folders; a name may have several parts, with `__` between them."""
    for name, count in counts.items():
        place = folder.joinpath(*name.split("__"))
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            confetti(10, 10, i).save(place / f"{i}.png")


def counts(source, cache, **options):
    return {name: len(list(split)) for name, split in open_splits(**source, **cache, **options).items()}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["Fotos [2024]", "a::b", "b?", "*", "50% #1, {x}", "file:", "zip:"])
@pytest.mark.parametrize("kind", ["pictures", "parquet"])
def test_names_of_folders_are_not_patterns(tmp_path, cache, name, kind, streaming):
    folders = [tmp_path / name, tmp_path / "b5"]
    for folder, count in zip(folders, (3, 2), strict=True):
        save_pictures(folder, roses=count)
        if kind == "parquet":
            pictures = [confetti(10 + i, 10) for i in range(count)]
            Dataset.from_dict({"image": pictures}).to_parquet(folder / "train [1].parquet")
    split = open_dataset(data_dir=str(folders[0]), streaming=streaming, **cache)
    assert sum(pixels.shape == (8, 8, 3) for pixels in decoded(split, 3)) == 3
    if not streaming:
        assert [image.size[1] for image in split["image"]] == [10, 10, 10]


def decoded(split, count):
    if isinstance(split, Dataset):
        return decode_images(split, 8)[range(len(split))]
    return StreamedImages(split, 8, True, seed=0, rank=0, world=1).next_batch(count)[0]


def test_labels_of_parquet_files_are_kept(tmp_path, cache):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["rose", "lily"])})
    rows = {"image": [stripes(8, 8)] * 3, "label": [0, 1, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    for streaming in (False, True):
        dataset = open_dataset(data_dir=str(tmp_path), streaming=streaming, **cache)
        assert dataset.features == features and [row["label"] for row in dataset] == [0, 1, 1]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_parquet_files_are_not_taken_for_files_beside_the_program(tmp_path, cache, monkeypatch, streaming):
    rows = {"image": [{"path": "0.png", "bytes": png(confetti(8, 8))}]}
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows, Features({"image": ImageFeature()})).to_parquet(tmp_path / "data" / "train.parquet")
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    monkeypatch.chdir(tmp_path)
    split = open_dataset(data_dir="data", streaming=streaming, **cache)
    np.testing.assert_array_equal(decoded(split, 1)[0], np.asarray(confetti(8, 8)))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("column", ["file_name", "title"])
def test_lists_of_pictures_make_none_disappear(tmp_path, cache, name, column):
    save_pictures(tmp_path / "data", roses=3)
    line = f"{column}\nroses/0.png\n" if name.endswith(".csv") else json.dumps({column: "roses/0.png"}) + "\n"
    (tmp_path / "data" / name).write_text(line)
    assert counts({"data_dir": str(tmp_path / "data")}, cache) == {"train": 3}


def test_linked_folders_are_entered_and_circles_are_not_endless(tmp_path, cache, caplog):
    save_pictures(tmp_path, data__roses=3, elsewhere=2)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "roses" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "entrance").symlink_to(tmp_path / "data")
    for folder in ("data", "entrance"):
        assert len(decode_images(open_dataset(data_dir=str(tmp_path / folder), **cache), 8)) == 5
        assert "1 of 6 pictures cannot be read" in caplog.text and "gone.png" in caplog.text


@pytest.mark.parametrize(
    "pictures, expected",
    [
        ({"Train__roses": 3, "val": 2, "valid": 4, "test": 1}, {"train": 3, "validation": 6, "test": 1}),
        ({"train": 4, "roses": 6, "lilies": 10}, {"train": 20}),
        ({"train": 4, ".": 1}, {"train": 5}),
        ({"train__dev": 2, "dev": 1}, {"train": 2, "validation": 1}),
        ({"dev": 3}, {"validation": 3}),
    ],
)
def test_folders_are_splits_where_all_are(tmp_path, cache, caplog, pictures, expected):
    save_pictures(tmp_path / "data", **pictures)
    (tmp_path / "data" / "notes").mkdir()
    assert counts({"data_dir": str(tmp_path / "data")}, cache) == expected
    assert ("all files are the split 'train'" in caplog.text) is ("roses" in pictures or "." in pictures)


@pytest.mark.parametrize(
    "files, expected",
    [
        (["data/train-00000-of-00002", "data/train-00001-of-00002", "data/dev-00000-of-00001"], [2, 1, 0]),
        (["train/0000", "default/validation/0000"], [1, 1, 0]),
        (["train", "flowers-test"], [1, 0, 1]),
        (["train", "b5"], [2, 0, 0]),
        (["flowers-128"], [1, 0, 0]),
    ],
)
def test_parquet_files_are_splits_where_all_are(tmp_path, cache, files, expected):
    for file in files:
        (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"image": [stripes(8, 8)]}).to_parquet(tmp_path / "data" / f"{file}.parquet")
    found = counts({"data_dir": str(tmp_path / "data")}, cache)
    assert found == {name: n for name, n in zip(("train", "validation", "test"), expected, strict=True) if n}


def test_splits_of_other_names_are_kept(tmp_path, cache):
    for split in ("train", "unlabeled"):
        Dataset.from_dict({"image": [stripes(8, 8)]}).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    assert counts({"data_dir": str(tmp_path)}, cache) == {"train": 1, "unlabeled": 1}


def test_configurations_of_a_data_set_are_those_that_it_names(tmp_path, cache):
    for name, count in {"few": 1, "many": 5}.items():
        (tmp_path / name).mkdir()
        Dataset.from_dict({"image": [stripes(8, 8)] * count}).to_parquet(tmp_path / name / "train.parquet")
    configs = [f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("few", "many")]
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n# Flowers\n")
    for source in ("data_dir", "dataset_name"):
        assert counts({source: str(tmp_path)}, cache, config_name="many") == {"train": 5}
        with pytest.raises(ValueError, match="few"):
            open_splits(**{source: str(tmp_path)}, **cache)


def test_a_folder_is_the_same_by_either_option(tmp_path, cache, monkeypatch):
    save_pictures(tmp_path / "data", **{".": 6})
    (tmp_path / "data" / "0.png").rename(tmp_path / "data" / "train.png")
    monkeypatch.chdir(tmp_path)
    for source in ({"data_dir": "data"}, {"dataset_name": "./data"}, {"dataset_name": "data"}):
        assert counts(source, cache) == {"train": 6}


def test_files_that_cannot_be_read_are_counted_and_named(tmp_path, cache, caplog):
    save_pictures(tmp_path / "data", roses=2)
    stripes(10, 10).save(tmp_path / "data" / "new.AVIF")
    for name in ("a.heic", "b.HEIC", ".hidden.heic", ".thumbnails/c.heic"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"\0\0\0 ftypheic")
    dataset = open_dataset(data_dir=str(tmp_path / "data"), **cache)
    assert len(decode_images(dataset, 8)) == 3
    assert "2 files skipped: .heic" in caplog.text
    assert skipped_by_type(tmp_path / "data") == {".heic": 2}
    (tmp_path / "phone").mkdir()
    (tmp_path / "data" / "a.heic").rename(tmp_path / "phone" / "a.heic")
    with pytest.raises(FileNotFoundError, match=r"phone holds no pictures .*\.heic.*save"):
        open_dataset(data_dir=str(tmp_path / "phone"), **cache)


@pytest.mark.parametrize("streaming", [False, True])
def test_names_that_are_not_utf8_are_skipped_and_named(tmp_path, cache, caplog, streaming):
    save_pictures(tmp_path / "data", roses=2)
    for name in (b"\xff.png", b"roses/\xfe/0.png"):
        path = os.fsencode(tmp_path / "data") + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(png(stripes(8, 8)))
    assert counts({"data_dir": str(tmp_path / "data")}, cache, streaming=streaming) == {"train": 2}
    assert "2 files skipped: 'roses/\\udcfe/0.png', '\\udcff.png' (names that are not UTF-8" in caplog.text


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
    (tmp_path / "b[5]").mkdir()
    (tmp_path / "b[5]" / "train.jsonl").write_text('{"title": "rose"}\n')
    with pytest.raises(ValueError, match=r"rename"):
        open_dataset(data_dir=str(tmp_path / "b[5]"), **cache)
    (tmp_path / "notes" / "train.csv").write_text("title,petals\nrose,30\n")
    with pytest.raises(ValueError, match="no image column, only title, petals"):
        open_dataset(data_dir=str(tmp_path / "notes"), **cache)
    with pytest.raises(ValueError, match="no split 'test': choose one of train"):
        open_dataset(data_dir=str(FLOWERS), split="test", **cache)
    for sources in ({}, {"dataset_name": "a/b", "data_dir": str(tmp_path)}):
        with pytest.raises(ValueError, match="either as `dataset_name`"):
            open_dataset(**sources, **cache)
