import json

import numpy as np
import pytest
from conftest import FLOWERS, make_labelled_unet, make_unet
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.evaluation.class_scores import labelled_images, measure_classes
from flower_ddim.evaluation.features import load_extractor
from flower_ddim.evaluation.metrics import Reference
from flower_ddim.evaluation.reports import classes_table
from flower_ddim.evaluation.scoring import ScoredModel, class_counts, make_reference, real_images
from flower_ddim.sampling.generate import labels_in_proportion


COLOURS = {"rose": (220, 30, 60), "sunflower": (240, 200, 20), "hip": (20, 40, 30)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Labelled pictures, plain ones with some noise: more roses than others, and one class that the model does not know."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, counts in (("train", (12, 6, 6)), ("validation", (8, 4, 4))):
        for (name, colour), count in zip(COLOURS.items(), counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = (np.array(colour) + rng.integers(-15, 15, (16, 16, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
        (folder / split / "other").mkdir()
        Image.new("RGB", (16, 16), "blue").save(folder / split / "other" / "1.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    unet = make_labelled_unet(class_names=["hip", "rose", "sunflower"], default_guidance_scale=2.0)
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler()).save_pretrained(folder)
    return folder


def test_classes_come_in_the_proportions_of_the_data():
    labels = labels_in_proportion([10, 0, 30], 80)
    assert np.bincount(labels).tolist() == [20, 0, 60]
    assert 3 <= labels[:16].count(0) <= 5  # those of a few neighbours, too


def test_photographs_are_named_right_and_generated_images_are_counted(model, data, tiny_extractor, tmp_path):
    pipe = FlowerDDIMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    names, cache = list(pipe.labels), str(tmp_path / "cache")
    pictures = [labelled_images(data, split, 16, names, cache_dir=cache) for split in ("train", "validation")]
    assert [len(images) for images, _ in pictures] == [24, 16]
    assert np.bincount(pictures[1][1]).tolist() == [4, 8, 4]
    result = measure_classes(pipe, *pictures, load_extractor(tiny_extractor), num_images=8, num_inference_steps=2)
    assert result["photographs"].items() >= {"count": 16, "top1": 1.0, "top5": 1.0}.items()
    assert result["generated"]["top5"] == 1.0 and 0 <= result["generated"]["top1"] <= 1
    assert [row["generated"]["count"] for row in result["classes"]] == [2, 4, 2]
    assert result["guidance_scale"] == 2.0 and result["num_inference_steps"] == 2
    assert (
        0 < result["photographs"]["nearest"] < result["generated"]["nearest"]
    )  # an untrained model remembers nothing
    assert result["memorization"]["generated_nearer_than_1_percent_of_held_out"] == 0
    table = classes_table(result)
    assert "| held-out photographs | 100% | 100% |" in table and table.count("\n| rose |") == 1
    json.dumps(result)
    remembered, labels = pictures[0]
    copies = measure_classes(pipe, pictures[0], (remembered, labels), load_extractor(tiny_extractor), num_images=3)
    assert copies["photographs"]["nearest"] < 1e-6 < copies["generated"]["nearest"]
    of_one = labels == names.index("rose")
    without = (remembered, np.where(of_one, names.index("hip"), labels))
    unseen = measure_classes(pipe, without, pictures[1], load_extractor(tiny_extractor), num_images=8)
    assert [row["photographs"]["nearest"] is None for row in unseen["classes"]] == [False, True, False]
    assert unseen["photographs"]["top1"] < 1


def test_what_is_scored_has_the_classes_of_the_reference(model, data, tiny_extractor, tmp_path):
    cache = str(tmp_path / "cache")
    counts = class_counts(data, "validation", cache)
    assert counts == {"rose": 8, "sunflower": 4, "hip": 4, "other": 1}
    images = real_images(data, "validation", 16, cache)
    path = tmp_path / "ref.safetensors"
    make_reference(images, data, "validation", 16, load_extractor(tiny_extractor), counts).save(path)
    reference = Reference.load(path)
    assert reference.class_counts == counts
    scored = ScoredModel(str(model), reference, num_images=16, kid_subset_size=10, guidance_scale=1.5)
    assert abs(np.bincount(scored.sampling["class_labels"]) - [4, 8, 4]).max() <= 1
    score = scored.score(num_inference_steps=3)
    assert score["guidance_scale"] == 1.5 and score["network_evaluations"] == 6
    assert class_counts(FLOWERS, "train", cache)["sunflower"] > 0


def test_the_command_writes_a_table(run_script, model, data, tiny_extractor, tmp_path):
    options = ["--data", data, "--extractor", tiny_extractor, "--cache_dir", tmp_path / "cache", "--num_images", 6]
    options += ["--num_inference_steps", 1, "--output", tmp_path / "classes.json"]
    completed = run_script("evaluate.py", "classes", "--model", model, *options)
    assert "| generated |" in completed.stdout and "sunflower" in completed.stdout
    assert json.loads((tmp_path / "classes.json").read_text())["num_photographs"] == {"training": 24, "held out": 16}
    completed = run_script("evaluate.py", "classes", *options, expect_success=False)
    assert completed.returncode == 1 and "knows no classes by name" in completed.stderr


def test_scores_are_set_against_guidance(run_script, model, data, tiny_extractor, tmp_path):
    shared = ["--model", model, "--batch_size", 4, "--num_images", 8, "--kid_subset_size", 4]
    place = ["--cache_dir", tmp_path / "cache"]
    run_script("evaluate.py", "reference", "--data", data, "--resolution", 16, "--extractor", tiny_extractor, *place,
               "--output", tmp_path / "ref.safetensors")  # fmt: skip
    document = tmp_path / "classes.md"
    document.write_text("<!-- guidance -->\n<!-- /guidance -->\n")
    shared += ["--reference", tmp_path / "ref.safetensors", "--output", tmp_path / "guidance.json"]
    run_script("evaluate.py", "guidance", *shared, "--scales", 1, 2.5, "--data", data, *place, "--document", document)
    result = json.loads((tmp_path / "guidance.json").read_text())
    plain, guided = result["rows"]
    assert (plain["guidance_scale"], guided["guidance_scale"]) == (1, 2.5) and result["num_inference_steps"] == 20
    assert plain["kid"] != guided["kid"] and plain["top5"] == guided["top5"] == 1.0  # of three classes
    assert "| guidance | KID × 1000 |" in document.read_text() and "\n| 2.5 | " in document.read_text()
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(tmp_path / "nameless")
    completed = run_script(
        "evaluate.py", "guidance", "--model", tmp_path / "nameless", *shared[2:], expect_success=False
    )
    assert completed.returncode == 1 and "name another `--model`" in completed.stderr


def test_pictures_of_other_classes_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="have none of the model's classes"):
        labelled_images(data, "train", 16, ["a", "b"], cache_dir=str(tmp_path))
