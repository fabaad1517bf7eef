import json

import pytest
from conftest import FLOWERS, make_unet
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.evaluation.features import load_extractor
from flower_ddim.evaluation.metrics import Reference
from flower_ddim.evaluation.scoring import make_reference, real_images
from flower_ddim.evaluation.students import compare_students


@pytest.fixture(scope="module")
def models(runs):
    """Folders of a teacher, and of a student for two steps."""
    student = {"distilled_guidance_scale": 1.0, "default_num_inference_steps": 2}
    for name, config in (("teacher", {}), ("student", student)):
        scheduler = FlowerDDIMScheduler(prediction_type="v_prediction")
        FlowerDDIMPipeline(make_unet(**config), scheduler).save_pretrained(runs / name)
    return str(runs / "teacher"), str(runs / "student")


@pytest.fixture(scope="module")
def reference(runs, tiny_extractor):
    path = runs / "reference.safetensors"
    images = real_images(FLOWERS, "train", 16, str(runs / "cache"))
    make_reference(images, FLOWERS, "split train", 16, load_extractor(tiny_extractor)).save(path)
    return path


def test_students_are_set_beside_their_teacher_in_a_table_and_two_figures(models, reference, runs, run_script):
    teacher, student = models
    options = ["--model", teacher, "--students", student, "--reference", reference, "--steps", 3, 2, "--seeds", 0, 100]
    options += ["--num_images", 12, "--kid_subset_size", 10, "--output", runs / "students.json", "--format", "png"]
    completed = run_script("evaluate.py", "students", *options)
    result = json.loads((runs / "students.json").read_text())
    rows = result["rows"]
    assert [(row["role"], row["num_inference_steps"]) for row in rows] == [
        ("teacher", 3),
        ("teacher", 2),
        ("student", 2),
    ]
    # The weights of this student are its teacher's.
    assert rows[1]["kid"] == pytest.approx(rows[2]["kid"], rel=1e-4) and rows[0]["kid"] != rows[1]["kid"]
    assert all(row["kid"]["std"] > 0 and row["seconds_per_image"] > 0 for row in rows)
    assert (
        "| teacher (teacher) | 3 | 3 |" in completed.stdout
        and "2 sets of 12 images (seeds from 0, 100)" in completed.stdout
    )
    for name in ("students.png", "students_samples.png"):
        assert Image.open(runs / name).width > 300


def test_what_is_no_comparison_is_refused(models, reference):
    teacher, _ = models
    found = Reference.load(reference)
    with pytest.raises(ValueError, match="is no student"):
        compare_students(teacher, [teacher], found, num_images=12, kid_subset_size=10)
    with pytest.raises(ValueError, match="`seeds` must be two or more"):
        compare_students(teacher, [], found, seeds=[0], num_images=12, kid_subset_size=10)
