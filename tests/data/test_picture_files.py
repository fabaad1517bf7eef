"""Pictures are opened as what they are, whatever their names say."""

import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from pictures import stripes
from PIL import EpsImagePlugin, Image

from flower_ddim.app.demo import open_photo
from flower_ddim.commands.interpolate import main as interpolate
from flower_ddim.data.decoding import decode_images
from flower_ddim.data.picture_files import open_picture, picture_suffixes
from flower_ddim.data.sources import open_dataset


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of the name of Ghostscript's; the file that it writes when it is started."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\necho started > '{tmp_path}/started'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow remembers what it found
    return tmp_path / "started"


@pytest.fixture
def disguised(tmp_path):
    """A file that calls itself .jpg and is EPS."""
    (tmp_path / "pictures").mkdir()
    stripes(8, 8).save(tmp_path / "pictures" / "flower.eps")
    return (tmp_path / "pictures" / "flower.eps").rename(tmp_path / "pictures" / "flower.jpg")


def test_no_entrance_starts_ghostscript(tmp_path, disguised, ghostscript, pipe):
    cache = {"cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="None of the 1 pictures can be read, first .*flower.jpg"):
        decode_images(open_dataset(data_dir=str(disguised.parent), **cache), 8)
    rows = {"image": [{"path": None, "bytes": disguised.read_bytes()}]}
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows, Features({"image": ImageFeature()})).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="None of the 1 pictures can be read, first .*train.parquet, row 1 "):
        decode_images(open_dataset(data_dir=str(tmp_path / "data"), **cache), 8)
    with pytest.raises(ValueError, match="is no picture that can be read"):
        open_photo(disguised)
    with pytest.raises(ValueError, match="is no picture: give raster images"):
        pipe.preprocess(Image.open(disguised))
    output = tmp_path / "loop.gif"
    with pytest.raises(ValueError, match="flower.jpg cannot be read .*JPEG or PNG"):
        interpolate(["--model", str(tmp_path), "--images", str(disguised), "--output", str(output)])
    assert not ghostscript.exists() and not output.exists()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif", ".bmp", ".gif", ".jp2", ".tga", ".ppm"])
def test_raster_formats_are_opened_under_any_name(tmp_path, suffix):
    stripes(8, 8).save(tmp_path / f"picture{suffix}")
    file = (tmp_path / f"picture{suffix}").rename(tmp_path / "other.jpg")
    assert suffix in picture_suffixes() and open_picture(file).convert("RGB").size == (8, 8)


def test_what_is_no_raster_format_is_not_called_a_picture():
    assert picture_suffixes().isdisjoint({".eps", ".ps", ".wmf", ".emf", ".mpg", ".hdf", ".grib", ".txt"})


def test_phones_pictures_of_several_views_are_read(tmp_path, pipe):
    """MPO, which calls itself .jpg."""
    picture = stripes(16, 16)
    picture.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[picture])
    assert open_picture(tmp_path / "phone.jpg").format == "MPO"
    assert pipe.preprocess(open_picture(tmp_path / "phone.jpg")).shape == (1, 3, 16, 16)
    (tmp_path / "views").mkdir()
    (tmp_path / "phone.jpg").rename(tmp_path / "views" / "phone.mpo")
    assert ".mpo" in picture_suffixes()
    assert (
        len(decode_images(open_dataset(data_dir=str(tmp_path / "views"), cache_dir=str(tmp_path / "cache")), 8)) == 1
    )
