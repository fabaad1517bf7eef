import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from pictures import confetti, stripes

from flower_ddim.data.decoding import decode_images
from flower_ddim.data.labels import class_indices, class_names, find_label_column
from flower_ddim.data.sources import open_dataset, open_splits
from flower_ddim.data.streaming import StreamedImages


@pytest.fixture
def cache(tmp_path):
    return {"cache_dir": str(tmp_path / "cache")}


def save(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        stripes(8, 8).save(folder / name)


def labelled(dataset, column=None):
    column = find_label_column(dataset, column)
    names = class_names(dataset, column)
    return names, class_indices(dataset, column, names).tolist()


@pytest.mark.parametrize("split", ["", "train/"])
def test_the_folder_that_holds_a_picture_is_its_class(tmp_path, cache, split):
    save(tmp_path / "d", f"{split}tulip/1.png", f"{split}by colour/red rose/2.png", f"{split}tulip/3.png")
    names, indices = labelled(open_dataset(data_dir=str(tmp_path / "d"), **cache))
    assert names == ["red rose", "tulip"] and indices == [0, 1, 1]


def test_folders_of_splits_are_no_classes(tmp_path, cache):
    save(tmp_path / "d", "train/1.png", "validation/2.png")
    for dataset in open_splits(data_dir=str(tmp_path / "d"), **cache).values():
        with pytest.raises(ValueError, match="no classes, only the columns image: sort them into a folder for each"):
            find_label_column(dataset)


def test_classes_of_another_split_are_found_by_their_names(tmp_path, cache):
    save(tmp_path / "d", "train/b/1.png", "train/c/2.png", "validation/a/3.png", "validation/c/4.png")
    splits = open_splits(data_dir=str(tmp_path / "d"), **cache)
    names, indices = labelled(splits["train"])
    assert names == ["b", "c"] and indices == [0, 1]
    assert class_indices(splits["validation"], "label", names).tolist() == [-1, 1]


def test_a_picture_without_a_class_is_named(tmp_path, cache):
    save(tmp_path / "d", "1.png", "a/2.png", "b/3.png")
    dataset = open_dataset(data_dir=str(tmp_path / "d"), **cache)
    assert len(decode_images(dataset, 8)) == 3  # as long as nobody asks for classes
    with pytest.raises(ValueError, match="1.png has no class: put it into the folder of one"):
        labelled(dataset)


def test_strings_are_classes_in_alphabetical_order():
    dataset = Dataset.from_dict({"image": [stripes(8, 8)] * 3, "name": ["rose", "lily", "rose"]})
    assert labelled(dataset, "name") == (["lily", "rose"], [1, 0, 1])


def dataset_of(**columns):
    rows = {"image": [stripes(8, 8)] * 2} | {name: values for name, (values, _) in columns.items()}
    features = Features({"image": ImageFeature()} | {name: feature for name, (_, feature) in columns.items()})
    return Dataset.from_dict(rows, features=features)


TWO = ClassLabel(names=["a", "b"])


@pytest.mark.parametrize(
    "dataset, column, message",
    [
        (dataset_of(), None, "no classes, only the columns image"),
        (dataset_of(), "kind", "`label_column` is kind, but the columns are image"),
        (dataset_of(n=([1, 2], Value("int64"))), "n", "`label_column` n holds .*int64.*`dataset.cast_column`"),
        (dataset_of(x=([0, 1], TWO), y=([0, 1], TWO)), None, "several columns of classes, x, y: choose one"),
        (dataset_of(x=([0, 0], ClassLabel(names=["a"]))), None, "from 2 to 10,000 classes, but column x has 1"),
        (dataset_of(x=(["a", "a"], Value("string"))), "x", "from 2 to 10,000 classes, but column x has 1"),
        (dataset_of(x=(["a", None], Value("string"))), "x", "but column x has 1"),
    ],
)
def test_what_tells_no_classes_is_refused(dataset, column, message):
    with pytest.raises(ValueError, match=message):
        labelled(dataset, column)


def test_streamed_pictures_bring_their_classes(tmp_path, cache):
    for i in range(6):
        folder = tmp_path / "d" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        confetti(8, 8, seed=i).save(folder / f"{i}.png")
    dataset = open_dataset(data_dir=str(tmp_path / "d"), streaming=True, **cache)
    assert class_names(dataset, "label") == ["a", "b"]
    pixels, labels = StreamedImages(dataset, 8, True, 0, 0, 1, "label").next_batch(6)
    assert pixels.shape == (6, 8, 8, 3) and sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]
    strings = Dataset.from_dict({"image": [stripes(8, 8)], "name": ["a"]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="`streaming` must know all classes at first: make name a"):
        class_names(strings, "name")


def test_pictures_that_cannot_be_read_take_their_classes_along(tmp_path, cache):
    save(tmp_path / "d", "a/1.png", "b/2.png", "c/3.png")
    (tmp_path / "d" / "b" / "2.png").write_bytes(b"no picture")
    dataset = open_dataset(data_dir=str(tmp_path / "d"), **cache)
    images = decode_images(dataset, 8)
    names, indices = labelled(dataset)
    assert np.array(indices)[images.kept].tolist() == [0, 2]
