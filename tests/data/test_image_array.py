import numpy as np
import pytest
from conftest import FLOWERS
from datasets import Dataset
from pictures import stripes

from flower_ddim.data.decoding import decode_images
from flower_ddim.data.image_array import channel_statistics
from flower_ddim.data.sources import image_column, open_dataset


@pytest.fixture
def cache(tmp_path):
    return {"cache_dir": str(tmp_path / "cache")}


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


def test_grey_pictures_have_one_channel_and_a_single_colour_makes_three(tmp_path):
    grey = [stripes(8, 8).convert("L") for _ in range(3)]
    images = decode_images(Dataset.from_dict({"image": grey}), 8)
    assert images.channels == 1 and images[[0, 1]].shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(images[[0]][0, :, :, 0], np.asarray(grey[0]))
    assert decode_images(Dataset.from_dict({"image": [*grey, stripes(8, 8)]}), 8).channels == 3


def test_channel_statistics_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    mean, std = channel_statistics([images[:7], images[7:]])
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)), rel=1e-12)
    assert std == pytest.approx((images / 255).std((0, 1, 2)), rel=1e-9)
    with pytest.raises(ValueError, match="nothing to learn"):
        channel_statistics([np.zeros((2, 4, 4, 3), dtype=np.uint8)])
