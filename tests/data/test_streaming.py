import pytest
from conftest import FLOWERS
from datasets import Dataset
from PIL import Image

from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.data.streaming import STREAMING_SHUFFLE_BUFFER, StreamedImages


@pytest.fixture
def cache(tmp_path):
    return {"cache_dir": str(tmp_path / "cache")}


def test_streamed_pictures_are_those_of_the_data_set_in_every_pass(cache):
    stream = open_dataset(data_dir=str(FLOWERS), streaming=True, **cache)
    streamed = StreamedImages(stream, 16, True, seed=0, rank=0, world=1)
    images = decode_images(open_dataset(data_dir=str(FLOWERS), **cache), 16)
    assert streamed.statistics == images.channel_statistics()
    expected = sorted(image.tobytes() for image in images[range(128)])
    first, second = streamed.next_batch(128)[0], streamed.next_batch(128)[0]
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
