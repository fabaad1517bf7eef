"""Every number of a card comes from a file, and the card of the shipped model is up to date."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, make_labelled_unet, make_unet
from huggingface_hub import ModelCard

from flower_ddim import PRETRAINED, FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.hub.model_card import FLOWERS, render_model_card, write_model_card
from flower_ddim.hub.records import ModelRecords
from flower_ddim.hub.upload import prepare_upload
from flower_ddim.storage.checksums import network_weights, weights_checksum


MODELS = Path(PRETRAINED).parent
EVALUATION = {
    "model": "somewhere",
    "num_images": 2000,
    "num_inference_steps": 20,
    "scheduler": "FlowerDDIMScheduler",
    "seed": 7,
    "feature_extractor": "efficientnet_lite0",
    "reference": {"name": "/home/somebody/held-out flowers", "num_images": 819},
    "kid": {"mean": 0.0123, "std": 0.0004, "subsets": 50, "subset_size": 400},
    "frechet_distance": 45.678,
    "precision": 0.61,
    "recall": 0.42,
    "seconds": 12.3,
}
OPTIONS = {"learning_rate": 0.002, "loss": "mse", "train_batch_size": 64, "block_out_channels": [8, 16]}
PLACES = (
    "train_data_dir",
    "output_dir",
    "cache_dir",
    "init_from",
    "hub_token",
    "model_config_name_or_path",
    "schedule",
)
OPTIONS |= {"growth_steps": [5, 3]}
OPTIONS |= dict.fromkeys(PLACES, "/home/somebody")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipe = FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler())
    pipe.save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(EVALUATION))
    (folder / "training.yaml").write_text(yaml.safe_dump({"options": OPTIONS}))
    lines = [{"step": i, "images": 64 * i, "loss": 1 / i} for i in range(1, 21)]
    lines.append({"step": 20, "images": 1280, "validation_loss_ema": 0.0456})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "notes.md").write_text("Blue ones look best.\n")
    return folder


def read(folder, records=None):
    return ModelRecords.read(FlowerDDIMPipeline.from_pretrained(folder), records or folder)


def test_the_shipped_card_is_up_to_date(run_script, tmp_path):
    run_script("model_card.py", "--output", tmp_path / "card.md")
    remedy = "model_card.md is out of date: render it with `python scripts/model_card.py`"
    assert (tmp_path / "card.md").read_text() == (ROOT / "model_card.md").read_text(), remedy
    card = ModelCard.load(ROOT / "model_card.md")
    for line in card.text.splitlines():
        if line.startswith("!["):
            assert (ROOT / line.rpartition("(")[2].rstrip(")")).is_file(), line


@pytest.mark.parametrize("name", sorted({path.name for path in MODELS.iterdir()} - {Path(PRETRAINED).name}))
def test_the_cards_of_the_other_shipped_models_are_up_to_date(name, run_script, tmp_path):
    run_script("model_card.py", name, "--no_images", "--output", tmp_path / "card.md")
    remedy = f"render it with `python scripts/model_card.py {name} --no_images --output {MODELS / name}/README.md`"
    assert (tmp_path / "card.md").read_text() == (MODELS / name / "README.md").read_text(), remedy
    assert f'from_pretrained(pretrained("{name}"))' in (tmp_path / "card.md").read_text()


def test_the_card_of_a_model_with_classes_names_them(tmp_path):
    unet = make_labelled_unet(default_guidance_scale=2.5, default_num_inference_steps=4)
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler()).save_pretrained(tmp_path)
    card = render_model_card(read(tmp_path), name="mine")
    assert "in 4 steps of DDIM" in card and "num_inference_steps=4" in card and "Nothing controls" not in card
    assert 'It knows 3 classes by name: `pipe(class_labels="rose", guidance_scale=2.5)`' in card
    assert "rose, Rose hip, sun-flower." in card


def test_the_card_of_a_student_says_what_it_is_for(tmp_path):
    student = {"distilled_guidance_scale": 2.5, "default_num_inference_steps": 2}
    pipe = FlowerDDIMPipeline(make_labelled_unet(**student), FlowerDDIMScheduler(prediction_type="v_prediction"))
    pipe.save_pretrained(tmp_path)
    options = {"teacher": "/somewhere/teacher", "teacher_steps": 8, "student_steps": 2, "loss": "mse"}
    (tmp_path / "training.yaml").write_text(yaml.safe_dump({"options": options}))
    log = [{"step": 10, "images": 320, "loss": 0.000348}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in log))
    write_model_card(pipe, tmp_path, records=tmp_path, name="mine")
    card = (tmp_path / "README.md").read_text()
    assert "It is a student, distilled from a teacher that takes 8 steps, with the guidance of 2.5 built in." in card
    assert 'It knows 3 classes by name: `pipe(class_labels="rose")`.' in card and "/somewhere" not in card
    assert (
        "--teacher TEACHER" in card
        and "| student_steps | 2 |" in card
        and "--student_steps 2" in card
        and "the name of the class is the only control" in card
    )
    assert "to 10: 0.00035 (mean squared error of the velocity)" in card and "salimans2022progressive" in card
    assert "The predicted picture after every step" in card and (tmp_path / "steps.png").is_file()
    options["teacher"] = None
    (tmp_path / "training.yaml").write_text(yaml.safe_dump({"options": options}))
    assert "student_steps" not in render_model_card(read(tmp_path), name="mine")


def test_metadata_and_tables_hold_the_measured_numbers(folder):
    text = render_model_card(read(folder), "my-flowers", "me/my-flowers", dataset=FLOWERS[1], license="cc0-1.0")
    card = ModelCard(text)
    data = card.data.to_dict()
    assert data["library_name"] == "diffusers" and data["pipeline_tag"] == "unconditional-image-generation"
    assert data["license"] == "cc0-1.0" and data["datasets"] == [FLOWERS[1]] and "flowers" in data["tags"]
    (model,) = data["model-index"]
    (result,) = model["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"kid": 12.3, "frechet-distance": 45.678, "precision": 0.61, "recall": 0.42}
    assert "KID × 1000 (2000 images, efficientnet_lite0)" in str(result["metrics"])
    for text in (
        "| KID × 1000 | 12.30 ± 0.40 |",
        "2,000 generated pictures (seeds from 7, 20 steps of FlowerDDIMScheduler) against 819 of held-out flowers",
        "KID over 50 subsets of 400",
        "| learning_rate | 0.002 |",
        "--learning_rate 0.002",
        "--block_out_channels 8 16",
        "20 optimizer steps on 1,280 pictures.",
        "the first 512 of them were average-pooled",
        "--growth_steps 5 3",
        "--init_from EARLIER_MODEL",
        "The licence of the weights is cc0-1.0.",
        "were those of an earlier model",
        f"steps 19 to 20: {(1 / 19 + 1 / 20) / 2:.3f} (mean squared error of the noise)",
        "validation pictures: 0.046",
        "Blue ones look best.",
        "state no licence",
        "nilsback2008automated",
        'FlowerDDIMPipeline.from_pretrained("me/my-flowers")',
        'DiffusionPipeline.from_pretrained("me/my-flowers", trust_remote_code=True)',
    ):
        assert text in card.text, text
    assert "/home/somebody" not in str(card)


def test_scores_of_other_weights_are_left_out(folder, tmp_path, caplog):
    records = shutil.copytree(folder, tmp_path / "trained-further")
    for checksum, expected in ((weights_checksum(network_weights(folder)), True), ("of what it was before", False)):
        (records / "metrics.json").write_text(json.dumps(EVALUATION | {"weights": checksum}))
        assert (read(folder, records).evaluation is not None) is expected
    assert "score the model again" in caplog.text


def test_scores_of_weights_that_are_stored_in_half_precision_are_known_again(folder, tmp_path):
    half = tmp_path / "half"
    FlowerDDIMPipeline.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(half)
    loaded = FlowerDDIMPipeline.from_pretrained(half)
    assert weights_checksum(network_weights(half)) == weights_checksum(loaded.unet.state_dict())


def test_a_pipeline_of_a_variant_is_uploaded_without_the_records_of_another(folder, tmp_path):
    FlowerDDIMPipeline.from_pretrained(folder).save_pretrained(tmp_path / "variant", variant="fp16")
    pipe = FlowerDDIMPipeline.from_pretrained(tmp_path / "variant", variant="fp16")
    prepare_upload(pipe, tmp_path / "upload", "me/variant")
    assert "no record of the training" in (tmp_path / "upload" / "README.md").read_text()


def test_what_is_known_of_a_folder_is_not_told_of_another_network(folder, tmp_path):
    pipe = FlowerDDIMPipeline.from_pretrained(folder)
    prepare_upload(pipe, tmp_path / "same", "me/same")
    assert "| learning_rate | 0.002 |" in (tmp_path / "same" / "README.md").read_text()
    pipe.unet.conv_out.bias.data += 1
    prepare_upload(pipe, tmp_path / "other", "me/other")
    assert "no record of the training" in (tmp_path / "other" / "README.md").read_text()


def test_what_is_not_known_is_said_not_to_be(folder, tmp_path):
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.md", "training*", "metrics*"))
    card = ModelCard(render_model_card(read(bare), "x", "me/x"))
    assert "have not been evaluated" in card.text and "no record of the training" in card.text
    assert "model-index" not in card.data.to_dict() and "datasets" not in card.data.to_dict()
    assert "Data: a folder of pictures" in card.text and "flowers in" not in card.text and "Oxford" not in card.text
    assert "rights in the pictures" in card.text
    assert "license" not in card.data.to_dict() and "No licence of the weights" in card.text


def test_a_written_card_has_its_pictures(folder, tmp_path):
    pipe = FlowerDDIMPipeline.from_pretrained(folder)
    pipe.save_pretrained(tmp_path)
    write_model_card(pipe, tmp_path, records=folder, name="my-flowers", repo_id="me/my-flowers")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == "my-flowers"
    for name in ("samples.png", "steps.png", "interpolation.png"):
        assert f"]({name})" in card.text and (tmp_path / name).stat().st_size > 1000


def test_records_of_the_training_are_used_only_for_the_weights_that_they_are_of(folder, tmp_path, caplog):
    records = shutil.copytree(folder, tmp_path / "out")
    state = {"weights": weights_checksum(network_weights(folder)), "step": 15, "images_seen": 970}
    (records / "training_state.json").write_text(json.dumps(state))
    fitting = read(folder, records)
    assert [line["step"] for line in fitting.log] == list(range(1, 16)) and not caplog.records
    card = render_model_card(fitting, "x", "me/x")
    assert "15 optimizer steps on 970 pictures" in card and "Training loss over steps 15 to 15" in card
    assert "validation pictures" not in card  # which were measured later

    (records / "training_state.json").write_text(json.dumps(state | {"weights": "of another step"}))
    other = read(folder, records)
    assert other.training is None and other.log == [] and other.evaluation is not None
    assert "no record of the training" in render_model_card(other, "x", "me/x")
    (warning,) = caplog.messages
    assert warning.startswith(
        f"What training.yaml and metrics.jsonl in {records} say is left out: they are of other weights"
    )
    (records / "training_state.json").write_text('{"weights"')
    with pytest.raises(ValueError, match="training_state.json is damaged"):
        read(folder, records)


def test_the_card_of_a_stranger_shows_pictures_of_its_own_model(folder, run_script, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "samples.png").write_bytes(b"somebody's own")
    run_script("model_card.py", folder, "--output", tmp_path / "there" / "card.md")
    card = (tmp_path / "there" / "card.md").read_text()
    for name in ("card-samples.png", "card-steps.png", "card-interpolation.png"):
        assert f"]({name})" in card and (tmp_path / "there" / name).stat().st_size > 1000
    assert (tmp_path / "there" / "samples.png").read_bytes() == b"somebody's own"
    assert "docs/" not in card and "comes with the package" not in card and "hf_hub_download" not in card
    assert f'FlowerDDIMPipeline.from_pretrained("{folder.name}")' in card

    run_script("model_card.py", folder, "--no_images", "--output", tmp_path / "bare" / "card.md")
    assert [path.name for path in (tmp_path / "bare").iterdir()] == ["card.md"]
    assert "![" not in (tmp_path / "bare" / "card.md").read_text()


def test_scores_of_few_pictures_are_said_to_be_of_few(folder, tmp_path):
    few = EVALUATION | {"num_images": 30, "precision": 0.0}
    for evaluation, expected in ((EVALUATION, False), (few, True)):
        (tmp_path / "metrics.json").write_text(json.dumps(evaluation))
        card = render_model_card(read(folder, tmp_path), "x", "me/x")
        assert ("**30 generated and 819 real pictures are few" in card) is expected
