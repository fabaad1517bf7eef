import json

import numpy as np
import pytest
import torch
from conftest import ROOT, make_unet
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.sampling.generate import generate_folder
from flower_ddim.sampling.solvers import with_solver


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def single(model, tmp_path_factory):
    """Five images of one process in batches of two."""
    return generate_folder(model, tmp_path_factory.mktemp("single") / "images", 5, 3, batch_size=2)


def pictures(folder):
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("*.png"))}


def test_every_image_has_the_seed_of_its_number(model, single):
    assert list(pictures(single)) == [f"{i:06}.png" for i in range(5)]
    pipe = FlowerDDIMPipeline.from_pretrained(model)
    image = pipe(generator=torch.Generator().manual_seed(3), num_inference_steps=3).images[0]
    assert abs(pictures(single)["000003.png"] - np.asarray(image)).max() <= 1


def test_it_goes_on_where_it_stopped_and_keeps_what_is_there(model, single, tmp_path):
    folder = generate_folder(model, tmp_path / "images", 5, 3)
    (folder / "000004.png").unlink()
    kept = {path: path.stat() for path in folder.glob("*.png")}
    generate_folder(model, folder, 6, 3)
    assert len(pictures(folder)) == 6
    for path, before in kept.items():
        assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns
    assert abs(pictures(folder)["000004.png"] - pictures(single)["000004.png"]).max() <= 1


def test_an_image_that_is_damaged_is_generated_again(model, single, tmp_path):
    folder = generate_folder(model, tmp_path / "images", 5, 3)
    whole = (folder / "000000.png").read_bytes()
    damaged = {
        "000000.png": b"",
        "000001.png": bytes(len(whole)),  # what a power cut may leave
        "000002.png": (folder / "000002.png").read_bytes()[:-100],
        "000003.png": (folder / "000003.png").read_bytes()[:-30] + bytes(30),
    }
    for name, content in damaged.items():
        (folder / name).write_bytes(content)
    generate_folder(model, folder, 5, 3)
    one, two = pictures(single), pictures(folder)
    assert all(abs(one[name] - two[name]).max() <= 1 for name in one)


def test_a_file_of_somebody_else_is_never_taken_for_an_image_of_ours(model, single, tmp_path):
    other_seed = generate_folder(model, tmp_path / "other-seed", 4, 3, seed=7)
    foreign = {
        "picture": lambda path: Image.new("RGB", (16, 16)).save(path),
        "text": lambda path: path.write_text("no picture at all"),
        "folder": lambda path: path.mkdir(),
        "other-seed": lambda path: path.write_bytes((other_seed / "000003.png").read_bytes()),
        "other-number": lambda path: path.write_bytes((single / "000002.png").read_bytes()),
    }
    for name, put in foreign.items():
        folder = tmp_path / "has" / name
        folder.mkdir(parents=True)
        put(folder / "000003.png")
        with pytest.raises(ValueError, match="000003.png was not generated .* name another folder"):
            generate_folder(model, folder, 5, 3)
        assert [path.name for path in folder.iterdir()] == ["000003.png"]
    generate_folder(model, tmp_path / "has" / "picture", 3, 3)  # which does not come to this name
    assert len(pictures(tmp_path / "has" / "picture")) == 4


def test_two_processes_refuse_before_either_has_generated(model, start_two, tmp_path):
    (folder := tmp_path / "has").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "000003.png")
    options = ["--model", model, "--num_images", 5, "--num_inference_steps", 3, "--output_dir", folder]
    assert start_two(ROOT / "scripts" / "generate.py", *options).wait() != 0
    assert [path.name for path in folder.iterdir()] == ["000003.png"]


def test_a_damaged_record_of_the_options_is_named(model, tmp_path):
    (tmp_path / "generation.json").write_text("")
    with pytest.raises(ValueError, match="generation.json is damaged"):
        generate_folder(model, tmp_path, 1, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["generation.json"]
    with pytest.raises(OSError, match="cannot be written"):
        generate_folder(model, tmp_path / "generation.json", 1, 3)


def test_two_processes_make_the_same_images(model, single, launch_two, tmp_path):
    options = ["--model", model, "--num_images", 5, "--num_inference_steps", 3, "--batch_size", 2]
    completed = launch_two(ROOT / "scripts" / "generate.py", *options, "--output_dir", tmp_path / "images")
    assert "3/3" in completed.stderr  # the progress of the first process
    one, two = pictures(single), pictures(tmp_path / "images")
    assert one.keys() == two.keys()
    assert all(abs(one[name] - two[name]).max() <= 1 for name in one)


def test_another_solver_makes_other_images(model, single, tmp_path):
    folder = generate_folder(model, tmp_path / "images", 2, 3, solver="unipc")
    assert json.loads((folder / "generation.json").read_text())["solver"] == "unipc"
    pipe = with_solver(FlowerDDIMPipeline.from_pretrained(model), "unipc")
    image = pipe(generator=torch.Generator().manual_seed(1), num_inference_steps=3).images[0]
    assert abs(pictures(folder)["000001.png"] - np.asarray(image)).max() <= 1
    assert abs(pictures(folder)["000001.png"] - pictures(single)["000001.png"]).max() > 1


def test_images_of_other_options_are_not_mixed(model, single):
    assert json.loads((single / "generation.json").read_text())["num_inference_steps"] == 3
    with pytest.raises(ValueError, match="belongs to ddim"):
        generate_folder(model, single.with_name("never"), 5, 4, eta=0.5, solver="unipc")
    assert not single.with_name("never").exists()
    with pytest.raises(ValueError, match="name another folder"):
        generate_folder(model, single, 5, 4)
    pipe = FlowerDDIMPipeline.from_pretrained(model)
    pipe.unet.conv_out.bias.data += 1
    pipe.save_pretrained(trained_further := single.with_name("trained-further"))
    with pytest.raises(ValueError, match="name another folder"):
        generate_folder(trained_further, single, 5, 3)
    for num_images, num_inference_steps, wrong in ((0, 3, "num_images"), (5, 0, "num_inference_steps")):
        with pytest.raises(ValueError, match=f"`{wrong}` is 0, but must be at least 1"):
            generate_folder(model, single.parent / "new", num_images, num_inference_steps)
    assert not (single.parent / "new").exists()
