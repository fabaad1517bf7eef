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
    Image.new("RGB", (16, 16)).save(folder / "000001.png")  # stands for an image that is there already
    (folder / "000004.png").unlink()
    (folder / ".000004.png").write_bytes(b"half an image")
    generate_folder(model, folder, 6, 3)
    assert len(pictures(folder)) == 6 and pictures(folder)["000001.png"].max() == 0
    assert abs(pictures(folder)["000004.png"] - pictures(single)["000004.png"]).max() <= 1


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
    for num_images, num_inference_steps in ((0, 3), (5, 0)):
        with pytest.raises(ValueError, match="num_images"):
            generate_folder(model, single.parent / "new", num_images, num_inference_steps)
    assert not (single.parent / "new").exists()
