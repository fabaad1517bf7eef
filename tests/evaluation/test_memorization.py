import json

import numpy as np
import pytest
import torch
from conftest import FLOWERS, make_unet
from diffusers import DDIMScheduler
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler, FlowerUNet2DModel
from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.evaluation.features import load_extractor
from flower_ddim.evaluation.memorization import loss_by_noise_level, measure_memorization, memorization_table
from flower_ddim.evaluation.plots import closest_pairs, nearest_distances
from flower_ddim.sampling.generate import generate_folder


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    cache_dir = str(tmp_path_factory.mktemp("cache"))
    return decode_images(open_dataset(data_dir=str(FLOWERS), cache_dir=cache_dir), 16)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_loss_of_predicting_nothing_is_the_closed_form(flowers, prediction_type):
    """A new network predicts 0, so what is missing of the velocity is known in every bin."""
    mean, std = flowers.channel_statistics()
    unet = FlowerUNet2DModel(sample_size=16, block_out_channels=(8, 16), image_mean=mean, image_std=std)
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler(prediction_type=prediction_type))
    rows = loss_by_noise_level(pipe, flowers, bins=4)
    assert [row["from"] for row in rows] == [0, 0.25, 0.5, 0.75] and rows[-1]["to"] == 1
    for row in rows:
        time = torch.linspace(row["from"], row["to"], 1001)
        signal, noise = pipe.scheduler.schedule.rates(time)
        # Both the standardised pictures and the noise have variance one: ε² , x_0² or their mixture.
        power = {"epsilon": 1 / signal**2, "sample": 1 / noise**2}.get(prediction_type, torch.ones(1001))
        assert row["loss"] == pytest.approx(power.mean().item(), abs=4 * row["standard_error"] + 0.02)


def test_a_part_of_the_pictures_gives_nearly_the_same(flowers):
    pipe = FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())
    every, some = (loss_by_noise_level(pipe, flowers, bins=2, num_images=count) for count in (None, 32))
    for one, other in zip(every, some, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=4 * other["standard_error"])
        assert one["standard_error"] < other["standard_error"]


def test_a_model_that_remembers_is_found_out(flowers, tiny_extractor, tmp_path):
    """Its training set is made of what it generates: every image has its copy there, and held-out flowers have none."""
    pipe = FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())
    pipe.save_pretrained(tmp_path / "model")
    folder = generate_folder(str(tmp_path / "model"), tmp_path / "images", 12, 2)
    copies = decode_images(open_dataset(data_dir=str(folder), cache_dir=str(tmp_path / "cache")), 16)
    extractor = load_extractor(tiny_extractor)
    found = measure_memorization(pipe, copies, flowers, extractor, 10, num_inference_steps=2, num_pairs=3)
    json.dumps(found.report)
    for space in ("features", "pixels"):
        assert found.distances[space][0].max() < 1e-2 < found.distances[space][1].min()
        assert found.report[space]["generated_nearer_than_1_percent_of_held_out"] == 1
    assert len(found.pairs) == 3 and found.pairs[0][0] <= found.pairs[-1][0]
    for _, (image, neighbour) in found.pairs:
        assert (image.int() - neighbour.int()).abs().max() <= 1
    assert "100.0 % of 10 generated images in feature space" in memorization_table(found.report)
    grid, histograms = closest_pairs(found.pairs), nearest_distances(found.distances)
    shown = [np.asarray(axes.images[0].get_array()) for axes in grid.axes if axes.images]
    assert len(shown) == 6 and np.array_equal(shown[0], found.pairs[0][1][0].permute(1, 2, 0).numpy())
    assert len(histograms.axes) == 2


def test_a_model_that_does_not_remember_is_not_accused(flowers, tiny_extractor):
    pipe = FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())
    found = measure_memorization(pipe, flowers, flowers, load_extractor(tiny_extractor), 6, num_inference_steps=2)
    assert found.report["features"]["generated_nearer_than_1_percent_of_held_out"] == 0
    assert found.report["features"]["held_out"]["median"] < 1e-3  # the same pictures


def test_the_script_writes_numbers_and_figures(run_script, tiny_extractor, tmp_path):
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--data", FLOWERS, "--split", "train", "--cache_dir", tmp_path / "cache"]
    options += ["--extractor", tiny_extractor, "--num_images", 8, "--num_inference_steps", 2, "--num_pictures", 16]
    document = tmp_path / "doc.md"
    document.write_text("<!-- overfitting -->\n<!-- /overfitting -->\n")
    options += ["--document", document, "--format", "webp"]
    completed = run_script("evaluate.py", "overfitting", *options, "--output_dir", tmp_path / "out")
    assert (
        "held-out photographs, pixels" in completed.stdout and "held-out photographs, pixels" in document.read_text()
    )
    numbers = json.loads((tmp_path / "out" / "overfitting.json").read_text())
    assert [len(rows) for rows in numbers["loss_by_noise_level"].values()] == [10, 10]
    assert {path.name for path in (tmp_path / "out").glob("*.webp")} == {
        "loss_by_noise.webp",
        "closest_pairs.webp",
        "nearest_distances.webp",
    }


def test_grey_photographs_are_seen_as_a_network_for_coloured_ones_sees_them(flowers, tiny_extractor, tmp_path):
    (tmp_path / "grey").mkdir()
    for i in range(6):
        Image.fromarray(flowers[[i]][0]).convert("L").save(tmp_path / "grey" / f"{i}.png")
    grey = decode_images(open_dataset(data_dir=str(tmp_path / "grey"), cache_dir=str(tmp_path / "cache")), 16)
    pipe = FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())
    found = measure_memorization(pipe, grey, flowers, load_extractor(tiny_extractor), 4, num_inference_steps=2)
    assert found.pairs[0][1].shape == (2, 3, 16, 16)


def test_the_loss_is_the_same_under_a_stock_scheduler(flowers):
    unet, scheduler = make_unet(), FlowerDDIMScheduler()
    stock = FlowerDDIMPipeline(unet, DDIMScheduler.from_config(scheduler.config))
    options = {"bins": 2, "num_images": 8}
    assert loss_by_noise_level(stock, flowers, **options) == loss_by_noise_level(
        FlowerDDIMPipeline(unet, scheduler), flowers, **options
    )
