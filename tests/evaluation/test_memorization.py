import json

import numpy as np
import pytest
from conftest import FLOWERS, make_unet
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.evaluation.features import load_extractor
from flower_ddim.evaluation.memorization import measure_memorization
from flower_ddim.evaluation.plots import closest_pairs, nearest_distances
from flower_ddim.evaluation.reports import memorization_table
from flower_ddim.sampling.generate import generate_folder


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    cache_dir = str(tmp_path_factory.mktemp("cache"))
    return decode_images(open_dataset(data_dir=str(FLOWERS), cache_dir=cache_dir), 16)


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
