import numpy as np
import pytest
import torch
from conftest import FLOWERS
from datasets import Dataset
from PIL import Image

from flower_ddim.data import (
    BatchSampler,
    channel_statistics,
    decode_images,
    fit_image,
    image_column,
    open_dataset,
    seeded_generator,
)


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
    assert images.shape == (128, 64, 64, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[5], np.asarray(dataset[5]["image"]))
    assert decode_images(dataset.select(range(2)), 32).shape == (2, 32, 32, 3)


def test_image_folder(tmp_path, cache):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        stripes(10 + i, 10).save(tmp_path / "pictures" / f"{i}.png")
    dataset = open_dataset(data_dir=str(tmp_path / "pictures"), **cache)
    assert decode_images(dataset, 8).shape == (3, 8, 8, 3)


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


def test_channel_statistics_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)), rel=1e-12)
    assert std == pytest.approx((images / 255).std((0, 1, 2)), rel=1e-9)


def test_every_pass_visits_every_picture_once_in_a_new_order():
    batches = BatchSampler(num_images=10, batch_size=3, seed=0)
    assert batches.batches_per_pass == 3
    passes = [torch.cat([batches(3 * p + i) for i in range(3)]).tolist() for p in range(4)]
    for order in passes:
        assert len(set(order)) == 9 and set(order) <= set(range(10))
    assert len({tuple(order) for order in passes}) == 4


def test_batches_are_a_function_of_seed_and_step():
    forwards = [BatchSampler(10, 3, seed=5)(step).tolist() for step in range(9)]
    sampler = BatchSampler(10, 3, seed=5)
    assert [sampler(step).tolist() for step in reversed(range(9))][::-1] == forwards
    assert [BatchSampler(10, 3, seed=6)(step).tolist() for step in range(9)] != forwards


def test_seeded_generators_differ_by_any_part_of_their_key():
    draws = {
        tuple(torch.rand(4, generator=seeded_generator(*key)).tolist()) for key in [(0, 1), (1, 0), (0, 0), (0, 1)]
    }
    assert len(draws) == 3


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
