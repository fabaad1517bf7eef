import numpy as np
import pytest
import torch
from conftest import FLOWERS
from datasets import Dataset
from PIL import Image

from flower_ddim.data.streaming import STREAMING_SHUFFLE_BUFFER, StreamedImages
from flower_ddim.data.batches import BatchSampler
from flower_ddim.data.image_array import channel_statistics
from flower_ddim.data.decoding import decode_images, fit_image
from flower_ddim.data.sources import image_column, open_dataset, open_splits, split_train_validation
from flower_ddim.pipelines.image_processing import upright_rgb


@pytest.fixture
def cache(tmp_path):
    return {"cache_dir": str(tmp_path / "cache")}


def stripes(width, height):
    """A picture whose red channel says the column and whose green channel the row of every pixel."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    array[..., 0], array[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(array)


def test_parquet_becomes_one_array(cache):
    dataset = open_dataset(data_dir=str(FLOWERS), **cache)
    assert len(dataset) == 128 and image_column(dataset) == "image"
    images = decode_images(dataset, 64)
    assert len(images) == 128 and images.channels == 3
    assert images[[5, 0]].shape == (2, 64, 64, 3) and images[[5, 0]].dtype == np.uint8
    np.testing.assert_array_equal(images[[5]][0], np.asarray(dataset[5]["image"]))
    assert decode_images(dataset.select(range(2)), 32)[[1]].shape == (1, 32, 32, 3)


def test_memory_and_disk_hold_the_same_pixels(cache):
    dataset = open_dataset(data_dir=str(FLOWERS), **cache).select(range(100, 128))
    memory, disk = (decode_images(dataset, 16, cache=where) for where in ("memory", "disk"))
    np.testing.assert_array_equal(memory[range(28)], disk[range(28)])
    assert memory.channel_statistics() == disk.channel_statistics()
    assert not disk.chunks[0].flags.writeable  # a view of the memory-mapped file


def test_image_folder(tmp_path, cache):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        stripes(10 + i, 10).save(tmp_path / "pictures" / f"{i}.png")
    dataset = open_dataset(data_dir=str(tmp_path / "pictures"), **cache)
    assert decode_images(dataset, 8)[range(3)].shape == (3, 8, 8, 3)


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


def test_grey_pictures_have_one_channel_and_a_single_colour_makes_three(tmp_path):
    grey = [stripes(8, 8).convert("L") for _ in range(3)]
    images = decode_images(Dataset.from_dict({"image": grey}), 8)
    assert images.channels == 1 and images[[0, 1]].shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(images[[0]][0, :, :, 0], np.asarray(grey[0]))
    assert decode_images(Dataset.from_dict({"image": [*grey, stripes(8, 8)]}), 8).channels == 3


def test_broken_pictures_are_reported_by_name_and_skipped(tmp_path, cache, caplog):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(10):
        stripes(8 + i, 8).save(folder / f"{i}.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "3.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:150])
    (folder / "7.png").write_text("no picture")
    images = decode_images(open_dataset(data_dir=str(folder), **cache), 8)
    assert len(images) == 8
    assert "2 of 10 pictures cannot be read" in caplog.text and "3.png" in caplog.text and "7.png" in caplog.text
    for path in folder.iterdir():
        path.write_text("no picture")
    with pytest.raises(ValueError, match="None of the 10 pictures can be read"):
        decode_images(open_dataset(data_dir=str(folder), cache_dir=str(tmp_path / "other")), 8)


def test_a_split_that_is_missing_is_set_aside_reproducibly():
    dataset = Dataset.from_dict({"number": list(range(50))})
    train, validation = split_train_validation(dataset, 0.1, seed=0)
    assert len(validation) == 5 and sorted([*train["number"], *validation["number"]]) == list(range(50))
    assert split_train_validation(dataset, 0.1, seed=0)[1]["number"][:] == validation["number"][:]
    assert split_train_validation(dataset, 0.1, seed=1)[1]["number"][:] != validation["number"][:]
    assert len(split_train_validation(dataset.select(range(2)), 0.9, seed=0)[0]) == 1
    with pytest.raises(ValueError, match="validation_epochs 0"):
        split_train_validation(dataset.select(range(1)), 0.5, seed=0)


def test_streamed_pictures_are_those_of_the_data_set_in_every_pass(cache):
    stream = open_dataset(data_dir=str(FLOWERS), streaming=True, **cache)
    streamed = StreamedImages(stream, 16, True, seed=0, rank=0, world=1)
    images = decode_images(open_dataset(data_dir=str(FLOWERS), **cache), 16)
    assert streamed.statistics == images.channel_statistics()
    expected = sorted(image.tobytes() for image in images[range(128)])
    first, second = streamed.next_batch(128), streamed.next_batch(128)
    assert sorted(image.tobytes() for image in first) == sorted(image.tobytes() for image in second) == expected
    assert not (first == second).all()


def test_colours_after_a_grey_beginning_of_a_stream_are_refused(tmp_path):
    colours = [(i % 256,) * 3 for i in range(STREAMING_SHUFFLE_BUFFER)] + [(255, 0, 0)]
    pictures = {"image": [Image.new("RGB", (8, 8), colour) for colour in colours]}
    Dataset.from_dict(pictures).to_parquet(tmp_path / "train.parquet")
    stream = open_dataset(data_dir=str(tmp_path), streaming=True)
    streamed = StreamedImages(stream, 8, True, seed=0, rank=0, world=1)
    assert streamed.channels == 1
    with pytest.raises(ValueError, match="there are coloured ones later"):
        streamed.next_batch(len(colours))


def test_image_column_of_any_name():
    dataset = Dataset.from_dict({"text": ["a"], "picture": [stripes(4, 4)]})
    assert image_column(dataset) == "picture"


def test_pictures_are_cut_to_their_centre_or_squeezed():
    cropped = np.asarray(fit_image(stripes(30, 10), 10))
    np.testing.assert_array_equal(cropped[0, :, 0], np.arange(10, 20))
    np.testing.assert_array_equal(cropped[:, 0, 1], np.arange(10))
    squeezed = np.asarray(fit_image(stripes(30, 10), 10, center_crop=False))
    assert squeezed[0, 0, 0] <= 2 and squeezed[0, -1, 0] >= 27


def test_reduction_is_antialiased():
    checkers = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    reduced = np.asarray(fit_image(checkers, 16)).astype(int)
    assert abs(reduced - 128).max() < 10


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "I;16"])
def test_any_mode_becomes_rgb(mode):
    image = Image.new("I;16", (8, 8)) if mode == "I;16" else stripes(8, 8).convert(mode)
    assert fit_image(image, 8).mode == "RGB"


def test_sixteen_bits_are_scaled_and_transparency_is_white():
    deep = Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16))
    assert np.asarray(upright_rgb(deep)).tolist() == np.full((4, 4, 3), 128).tolist()
    shallow = Image.fromarray(np.full((4, 4), 128, dtype=np.int32))  # 8 bits, kept in 32
    assert np.asarray(upright_rgb(shallow)).tolist() == np.full((4, 4, 3), 128).tolist()
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (np.asarray(upright_rgb(clear)) == 255).all()


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look at
    stripes(20, 10).save(tmp_path / "turned.jpg", exif=exif)
    assert upright_rgb(Image.open(tmp_path / "turned.jpg")).size == (10, 20)


def test_channel_statistics_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    mean, std = channel_statistics([images[:7], images[7:]])
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)), rel=1e-12)
    assert std == pytest.approx((images / 255).std((0, 1, 2)), rel=1e-9)
    with pytest.raises(ValueError, match="nothing to learn"):
        channel_statistics([np.zeros((2, 4, 4, 3), dtype=np.uint8)])


def test_every_pass_visits_every_picture_once_in_a_new_order():
    batches = BatchSampler(num_images=10, batch_size=3, seed=0)
    assert batches.batches_per_epoch == 3
    passes = [torch.cat([batches(3 * p + i) for i in range(3)]).tolist() for p in range(4)]
    for order in passes:
        assert len(set(order)) == 9 and set(order) <= set(range(10))
    assert len({tuple(order) for order in passes}) == 4


def test_the_recipe_of_the_book_has_25550_steps_on_the_flowers():
    """An epoch is five passes one after the other, so that only its last partial batch is dropped."""
    batches = BatchSampler(num_images=6552, batch_size=64, seed=0, repeats=5)
    assert 50 * batches.batches_per_epoch == 25_550
    epoch = torch.cat([batches(step) for step in range(batches.batches_per_epoch)])
    assert torch.bincount(epoch, minlength=6552).unique().tolist() in ([4, 5], [5])


def test_batches_are_a_function_of_seed_and_step():
    forwards = [BatchSampler(10, 3, seed=5)(step).tolist() for step in range(9)]
    sampler = BatchSampler(10, 3, seed=5)
    assert [sampler(step).tolist() for step in reversed(range(9))][::-1] == forwards
    assert [BatchSampler(10, 3, seed=6)(step).tolist() for step in range(9)] != forwards


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
    with pytest.raises(ValueError, match="fewer than one batch of 64"):
        BatchSampler(12, 64, seed=0)
