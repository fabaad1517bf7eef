import os

import numpy as np
import pytest
from conftest import make_unet
from datasets import Dataset
from pictures import stripes
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.data.decoding import decode_images, fit_image
from flower_ddim.data.sources import open_dataset
from flower_ddim.pipelines.image_processing import crop_and_resize, upright_rgb


@pytest.fixture
def cache(tmp_path):
    return {"cache_dir": str(tmp_path / "cache")}


def test_image_folder(tmp_path, cache):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        stripes(10 + i, 10).save(tmp_path / "pictures" / f"{i}.png")
    dataset = open_dataset(data_dir=str(tmp_path / "pictures"), **cache)
    assert decode_images(dataset, 8)[range(3)].shape == (3, 8, 8, 3)


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
    with pytest.raises(ValueError, match="None of the 10 pictures can be read, first .*save them as JPEG or PNG"):
        decode_images(open_dataset(data_dir=str(folder), **cache), 8)


def test_decoded_pixels_are_those_of_the_files_content(tmp_path, cache):
    """Whatever the time of its last change says: `cp -p` and `rsync -a` bring the time along."""
    (tmp_path / "pictures").mkdir()
    picture, parquet = tmp_path / "pictures" / "a.bmp", tmp_path / "data" / "train.parquet"
    parquet.parent.mkdir()

    def decoded(image):
        image.save(picture)
        Dataset.from_dict({"image": [image]}).to_parquet(parquet)
        for file in (picture, parquet):
            os.utime(file, ns=(10**18, 10**18))
        folders = (picture.parent, parquet.parent)
        return [decode_images(open_dataset(data_dir=str(folder), **cache), 8)[[0]][0] for folder in folders]

    old, new = stripes(8, 8), stripes(8, 8).transpose(Image.Transpose.ROTATE_180)
    for image in (old, new, old):
        for pixels in decoded(image):
            np.testing.assert_array_equal(pixels, np.asarray(image))


def test_a_second_run_finds_the_decoded_pixels(tmp_path, cache):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "data").mkdir()
    for i in range(3):
        stripes(10, 10).save(tmp_path / "pictures" / f"{i}.png")
    Dataset.from_dict({"image": [stripes(10, 10)]}).to_parquet(tmp_path / "data" / "train.parquet")

    def run():
        for folder in ("pictures", "data"):
            decode_images(open_dataset(data_dir=str(tmp_path / folder), **cache), 8)
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}

    first = run()
    os.utime(tmp_path / "pictures" / "0.png")  # copied anew, with the same content
    assert len(first) == 4 and run() == first


def test_pictures_are_cut_to_their_centre_or_squeezed():
    cropped = fit_image(stripes(30, 10), 10)
    np.testing.assert_array_equal(cropped[0, :, 0], np.arange(10, 20))
    np.testing.assert_array_equal(cropped[:, 0, 1], np.arange(10))
    squeezed = fit_image(stripes(30, 10), 10, center_crop=False)
    assert squeezed[0, 0, 0] <= 2 and squeezed[0, -1, 0] >= 27


def test_reduction_is_antialiased():
    checkers = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    reduced = fit_image(checkers, 16).astype(int)
    assert abs(reduced - 128).max() < 10


def photograph(mode, width, height):
    """Noise in one of the modes that files have."""
    generator = np.random.default_rng(width * height)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 2**16, (height, width), dtype=np.uint16))
    bands = len(Image.new(mode, (1, 1)).getbands())
    array = generator.integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(array.squeeze(-1) if bands == 1 else array, mode)


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("RGBA", 3), ("CMYK", 3), ("L", 1), ("LA", 1), ("I;16", 1)])
@pytest.mark.parametrize("model_channels", [3, 1])
def test_a_training_sees_what_preprocess_sees_rounded_once(mode, channels, model_channels):
    """With a standardisation by 0 and 1, which is none. Models of one channel train on grey pictures."""
    unet = make_unet(in_channels=model_channels, out_channels=model_channels, image_mean=0.0, image_std=1.0)
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler())
    for width, height in ((16, 16), (17, 31), (333, 201), (64, 48), (9, 5), (1, 40)):
        image = photograph(mode, width, height)
        trained_on = decode_images(Dataset.from_dict({"image": [image]}), 16)[[0]]
        seen = (255 * pipe.preprocess(image).permute(0, 2, 3, 1)).round().byte().numpy()
        assert trained_on.shape == (1, 16, 16, channels) and seen.shape == (1, 16, 16, model_channels)
        if channels <= model_channels:
            np.testing.assert_array_equal(seen, trained_on.repeat(model_channels // channels, -1))
        else:
            grey = trained_on @ np.array([0.299, 0.587, 0.114])
            assert abs(seen[..., 0] - grey).max() < 1.01  # rounded before it is grey, and after


def test_a_picture_of_the_right_size_stays_exact():
    image = photograph("RGB", 16, 16)
    np.testing.assert_array_equal(fit_image(image, 16), np.asarray(image))
    array = np.asarray(image, dtype=np.float32) / 255
    np.testing.assert_array_equal(crop_and_resize(array, 16, 16), array)


def test_resizing_rounds_nothing():
    """Half of a picture twice as large is the mean over pairs, weighted 1, 3, 3, 1 by the triangle of the filter."""
    row = np.random.default_rng(0).random((1, 32, 1), dtype=np.float32)
    halved = crop_and_resize(row, 1, 16, center_crop=False)[0, 1:-1, 0]
    left, a, b, right = (row[0, start : start + 28 : 2, 0] for start in range(1, 5))
    np.testing.assert_allclose(halved, (left + 3 * a + 3 * b + right) / 8, rtol=1e-6)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "I;16"])
def test_any_mode_becomes_rgb(mode):
    image = Image.new("I;16", (8, 8)) if mode == "I;16" else stripes(8, 8).convert(mode)
    assert upright_rgb(image).mode == "RGB"
    array = fit_image(image, 8)
    assert array.shape == (8, 8, 3) and array.dtype == np.uint8


def test_fractions_are_scaled_and_other_numbers_refused_by_name(tmp_path, cache, caplog):
    folder = tmp_path / "pictures"
    folder.mkdir()
    fractions = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    unusable = {"255": 255 * fractions, "below": fractions - 0.1, "nan": np.where(fractions > 0.5, np.nan, fractions)}
    for name, values in {"fractions": fractions, **unusable}.items():
        Image.fromarray(values).save(folder / f"{name}.tif")
    Image.fromarray(np.full((8, 8), 100_000, dtype=np.int32)).save(folder / "32-bits.tif")
    Image.fromarray(np.full((8, 8), -1, dtype=np.int32)).save(folder / "negative.tif")
    images = decode_images(open_dataset(data_dir=str(folder), **cache), 8)
    np.testing.assert_array_equal(images[[0]][0, :, :, 0], (255 * fractions).round())
    assert len(images) == 1 and "5 of 6 pictures cannot be read" in caplog.text
    assert "255.tif (Mode F holds numbers outside of [0, 1]: scale them to that)" in caplog.text
    assert "32-bits.tif (Mode I holds numbers outside of [0, 65535]: scale them to that)" in caplog.text


def test_preprocess_takes_fractions_and_nothing_else_of_mode_f(pipe):
    seen = pipe.preprocess(Image.fromarray(np.full((16, 16), 0.5, dtype=np.float32)))
    expected = pipe.preprocess(Image.new("L", (16, 16), 128))
    assert (seen == expected).all()
    with pytest.raises(ValueError, match=r"Mode F holds numbers outside of \[0, 1\]"):
        pipe.preprocess(Image.fromarray(np.full((16, 16), 300, dtype=np.float32)))


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
