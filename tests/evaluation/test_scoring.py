import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import FLOWERS, ROOT, make_unet
from diffusers import DDIMScheduler

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.evaluation.features import load_extractor
from flower_ddim.evaluation.metrics import Reference, compare
from flower_ddim.evaluation.plots import quality_by_steps
from flower_ddim.evaluation.reports import fewest_steps, score_table, scores_table, steps_table
from flower_ddim.evaluation.scoring import (
    ScoredModel,
    make_reference,
    real_images,
    score_folder,
)
from flower_ddim.sampling.generate import generate_folder
from flower_ddim.sampling.solvers import SOLVERS, with_solver
from flower_ddim.storage.checksums import network_weights, weights_checksum


SMALL = {"num_images": 22, "kid_subset_size": 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reference_file(tiny_extractor, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "ref.safetensors"
    cache_dir = str(path.parent / "cache")
    images = real_images(FLOWERS, "train", 16, cache_dir)
    make_reference(images, FLOWERS, "split train", 16, load_extractor(tiny_extractor)).save(path)
    return path


@pytest.fixture(scope="module")
def reference(reference_file):
    return Reference.load(reference_file)


@pytest.fixture(scope="module")
def score(model, reference):
    return ScoredModel(model, reference, **SMALL, batch_size=8).score(num_inference_steps=2)


def numbers(score):
    return [score["kid"]["mean"], score["frechet_distance"], score["precision"], score["recall"]]


def test_a_score_says_what_it_was_made_with(score, model, reference, tiny_extractor):
    assert reference.features.shape == (128, 16) and "16×16" in reference.source
    expected = {
        "model": Path(model).name,
        "weights": weights_checksum(network_weights(model)),
        "num_images": 22,
        "num_inference_steps": 2,
        "scheduler": "FlowerDDIMScheduler",
    }
    expected |= {"seed": 0, "dtype": "float32", "feature_extractor": tiny_extractor}
    assert expected.items() <= score.items()
    assert score["reference"] == {"name": reference.source, "num_images": 128}
    assert score["seconds"] > 0 and score["kid"]["mean"] > 0  # random weights generate no flowers


def test_few_pictures_are_warned_of_in_record_and_table(score, model, reference, caplog):
    warning = "22 generated and 128 real pictures are few: below 100 of each, Fréchet distance, precision and recall say little."
    assert score["warning"] == warning and f"**{warning}**" in score_table(score)
    enough = compare(reference.features[:110], reference, kid_subset_size=20)
    assert "warning" not in enough and "**" not in score_table(enough)
    ScoredModel(model, reference, **SMALL).score(num_inference_steps=1)
    assert caplog.messages == [warning]


def test_the_division_into_batches_changes_nothing(score, model, reference):
    otherwise = ScoredModel(model, reference, **SMALL, batch_size=5).score(num_inference_steps=2)
    assert numbers(otherwise) == pytest.approx(numbers(score), rel=1e-3)


def test_two_processes_find_what_one_finds(score, model, reference_file, launch_two, tmp_path):
    options = [word for name, value in (SMALL | {"num_inference_steps": 2}).items() for word in (f"--{name}", value)]
    options += ["--model", model, "--reference", reference_file, "--output", tmp_path / "metrics.json"]
    launched = launch_two(ROOT / "scripts" / "evaluate.py", "score", *options, "--batch_size", 4)
    assert numbers(json.loads((tmp_path / "metrics.json").read_text())) == pytest.approx(numbers(score), rel=1e-3)
    assert launched.stdout.count("| Precision |") == 1  # printed once


def test_a_folder_of_the_same_images_scores_the_same(score, model, reference, tmp_path):
    folder = generate_folder(model, tmp_path / "images", 22, 2)
    by_folder = score_folder(str(folder), reference, kid_subset_size=20)
    assert numbers(by_folder) == pytest.approx(numbers(score), rel=1e-3)


def test_scores_are_set_side_by_side_if_they_can_be_compared(score, tmp_path):
    guided = score | {"model": "guided", "guidance_scale": 2.5}
    table = scores_table([score, guided])
    names, scales = zip(*(line.split(" | ")[:3:2] for line in table.splitlines()[2:4]), strict=True)
    assert names == (f"| {score['model']}", "| guided") and scales == ("", "2.5")
    with pytest.raises(ValueError, match="with the same `--reference` and `--num_images`"):
        scores_table([score, score | {"num_images": 5}])


def test_too_few_images_are_refused_before_any_is_generated(model, reference):
    with pytest.raises(ValueError, match="at least 400"):
        ScoredModel("no model is looked for", reference, 22)
    with pytest.raises(ValueError, match="at least 200"):
        ScoredModel("no model is looked for", reference, 300, kid_subset_size=200)


def test_images_are_not_compared_with_larger_ones(model, reference):
    larger = replace(reference, resolution=32)
    with pytest.raises(ValueError, match="16×16 pixels, but the reference is of 32: .*--resolution 16"):
        ScoredModel(model, larger, **SMALL)


def test_ddim_is_ddim_whatever_solver_a_folder_was_saved_with(model):
    pipe = with_solver(FlowerDDIMPipeline.from_pretrained(model), "dpm++")
    assert type(with_solver(pipe, "ddim").scheduler) is DDIMScheduler


def test_the_script_measures_from_real_pictures_to_a_document(run_script, model, tiny_extractor, tmp_path):
    reference, document = tmp_path / "ref.safetensors", tmp_path / "doc.md"
    data = ["--data", FLOWERS, "--split", "train", "--cache_dir", tmp_path / "cache"]
    extractor = ["--extractor", tiny_extractor]
    run_script("evaluate.py", "reference", *data, "--resolution", 16, *extractor, "--output", reference)
    document.write_text(
        "before\n<!-- score -->\n<!-- /score -->\nbetween\n<!-- steps -->\nold\n<!-- /steps -->\nafter\n"
    )
    options = ["--model", model, "--reference", reference, "--document", document]
    options += ["--num_images", 8, "--kid_subset_size", 8]
    scored = run_script(
        "evaluate.py", "score", *options, "--solver", "unipc", "--dtype", "bfloat16", "--output", tmp_path / "m.json"
    )
    expected = {"scheduler": "UniPCMultistepScheduler", "dtype": "bfloat16"}
    assert expected.items() <= json.loads((tmp_path / "m.json").read_text()).items()
    beside = run_script("evaluate.py", "scores", "--files", tmp_path / "m.json", tmp_path / "m.json")
    assert beside.stdout.count(f"| {Path(model).name} | 20 |") == 2
    run_script("evaluate.py", "steps", *options, "--steps", 1, 2, "--output", tmp_path / "steps.json")
    assert len(json.loads((tmp_path / "steps.json").read_text())["rows"]) == 6
    assert (tmp_path / "steps.png").stat().st_size > 0
    text = document.read_text()
    assert text.startswith("before\n<!-- score -->\n| score") and text.endswith("<!-- /steps -->\nafter\n")
    assert "old" not in text and text.split("<!-- /score")[0].split("-->\n")[1] in scored.stdout
    folder = generate_folder(model, tmp_path / "images", 8, 2)
    options = ["--images", folder, "--reference", reference, "--kid_subset_size", 8]
    run_script("evaluate.py", "score_folder", *options, "--output", tmp_path / "folder.json")
    assert json.loads((tmp_path / "folder.json").read_text())["images"] == "images"
    missing = run_script("evaluate.py", "score", "--reference", tmp_path / "none", expect_success=False)
    assert missing.returncode == 1 and missing.stderr.strip().splitlines()[-1].endswith(
        "`flower-ddim evaluate reference`."
    )


def test_solvers_of_two_evaluations_a_step_are_counted_as_that(model, reference):
    scored = ScoredModel(model, reference, **SMALL)
    evaluations = {"ddim": [1, 3], "heun": [1, 5], "kdpm2": [1, 5]}
    result = scored.quality_against_steps([1, 3], list(evaluations))
    found = [row["network_evaluations"] for row in result["rows"]]
    assert found == [number for numbers in evaluations.values() for number in numbers]
    pipe = with_solver(scored.pipe, "heun")
    pipe(num_inference_steps=3)
    assert pipe.num_timesteps == 5
    table, (line,) = steps_table(result), quality_by_steps(result["rows"][2:4]).axes[0].lines
    assert (
        table.count(" (5) |") == 2 and "In brackets: network evaluations" in table and list(line.get_xdata()) == [1, 5]
    )
    assert "3 steps (5 network evaluations) of HeunDiscreteScheduler" in score_table(scored.score(3, "heun"))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_works_with_any_number_of_steps(model, solver):
    pipe = FlowerDDIMPipeline.from_pretrained(model)
    solving = with_solver(pipe, solver)
    assert solving.scheduler is not pipe.scheduler and solving.unet is pipe.unet
    for steps in (1, 2, 3):
        image = solving(generator=torch.Generator().manual_seed(0), num_inference_steps=steps, output_type="pt").images
        assert image.isfinite().all()
    with pytest.raises(ValueError, match="choose one of ddim"):
        with_solver(pipe, "runge-kutta")


def test_the_cheapest_setting_as_good_as_twenty_steps_is_named():
    def row(solver, steps, mean, **evaluations):
        return {"solver": solver, "num_inference_steps": steps, **evaluations, "kid": {"mean": mean, "std": 0.01}}

    rows = [row("ddim", 10, 0.2), row("ddim", 20, 0.1), row("unipc", 5, 0.15), row("unipc", 10, 0.109)]
    assert fewest_steps(rows) == rows[3]
    assert fewest_steps([*rows, row("heun", 6, 0.1, network_evaluations=11)]) == rows[3]
    assert fewest_steps(rows[2:]) is None
    result = {
        "num_images": 7,
        "dtype": "float32",
        "feature_extractor": "net",
        "reference": {"name": "pictures", "num_images": 9},
    }
    complete = [row(solver, steps, 0.1 + 1 / steps) for solver in ("ddim", "unipc") for steps in (10, 20)]
    table = steps_table(result | {"rows": complete})
    assert "| 10 | 200.0 ± 10.0 | 200.0 ± 10.0 |" in table and "takes 20 network evaluations with ddim" in table
