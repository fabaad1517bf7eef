import json
import math

import pytest
import torch
from conftest import FLOWERS, make_unet
from PIL import Image
from safetensors.torch import load_file

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.training import ZERO_NOISE_LOSS, diffusion_loss, draw_noise_and_times


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_loss_is_the_mean_absolute_error_of_what_is_predicted(prediction_type):
    scheduler = FlowerDDIMScheduler(prediction_type=prediction_type)
    unet = make_unet()
    noise, times = draw_noise_and_times((4, 3, 16, 16), seed=0, step=0)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    start, end = math.acos(0.95), math.acos(0.02)
    angles = (start + times * (end - start)).reshape(4, 1, 1, 1)
    signal, noise_rate = angles.cos(), angles.sin()
    target = {"epsilon": noise, "sample": images, "v_prediction": signal * noise - noise_rate * images}[
        prediction_type
    ]
    prediction = unet(signal * images + noise_rate * noise, 1000 * times - 1).sample
    expected = (prediction - target).abs().mean()
    torch.testing.assert_close(diffusion_loss(unet, scheduler, images, noise, times), expected, rtol=1e-4, atol=0)


def test_predicting_no_noise_scores_the_baseline():
    unet = make_unet()
    for tensor in (unet.conv_out.weight, unet.conv_out.bias):
        torch.nn.init.zeros_(tensor)
    noise, times = draw_noise_and_times((64, 3, 16, 16), seed=0, step=0)
    loss = diffusion_loss(unet, FlowerDDIMScheduler(), torch.zeros_like(noise), noise, times)
    assert loss.item() == pytest.approx(ZERO_NOISE_LOSS, abs=0.01)


def test_noise_and_times_are_a_function_of_seed_and_step():
    noise, times = draw_noise_and_times((8, 3, 4, 4), seed=3, step=7)
    again = draw_noise_and_times((8, 3, 4, 4), seed=3, step=7)
    assert torch.equal(noise, again[0]) and torch.equal(times, again[1])
    for seed, step in ((3, 8), (4, 7)):
        assert not torch.equal(draw_noise_and_times((8, 3, 4, 4), seed, step)[0], noise)
    assert times.min() >= 0 and times.max() <= 1


def train_options(output_dir, cache_dir, **changes):
    options = {
        "train_data_dir": FLOWERS, "output_dir": output_dir, "cache_dir": cache_dir, "resolution": 16,
        "train_batch_size": 16, "max_train_steps": 4, "logging_steps": 1, "checkpointing_steps": 2, "seed": 1,
    } | changes  # fmt: skip
    return [word for name, value in options.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def trained(runs, run_script):
    """Output folder of four steps of real training on the sample flowers."""
    if not (runs / "whole").exists():
        run_script("train.py", *train_options(runs / "whole", runs / "cache"))
    return runs / "whole"


def losses(output_dir):
    return [json.loads(line)["loss"] for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def test_training_writes_pipeline_checkpoints_samples_and_metrics(trained):
    pipe = FlowerDDIMPipeline.from_pretrained(trained)
    assert pipe.unet.config.image_mean == pytest.approx([0.47, 0.39, 0.31], abs=0.1)
    assert pipe.unet.config.sample_size == 16
    assert Image.open(trained / "samples.png").size == (64, 64)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines[-1]["images"] == 64
    assert losses(trained)[0] == pytest.approx(ZERO_NOISE_LOSS, abs=0.02)  # the untrained network predicts no noise
    for checkpoint in ("checkpoint-2", "checkpoint-4"):
        FlowerDDIMPipeline.from_pretrained(trained / checkpoint)


def test_what_is_saved_is_the_average(trained):
    averaged = load_file(trained / "unet" / "diffusion_pytorch_model.safetensors")
    last = load_file(trained / "checkpoint-4" / "state" / "model.safetensors")
    assert averaged.keys() == last.keys()
    # After four steps at a decay of 0.999 the average has hardly left the zeros of the last layer.
    assert 0 < averaged["conv_out.weight"].abs().max() < 0.01 * last["conv_out.weight"].abs().max()
    assert not torch.equal(averaged["mid_blocks.0.norm.running_mean"], last["mid_blocks.0.norm.running_mean"])


def test_a_resumed_run_equals_the_uninterrupted_one(trained, runs, run_script):
    halves = runs / "halves"
    run_script("train.py", *train_options(halves, runs / "cache", max_train_steps=2))
    run_script("train.py", *train_options(halves, runs / "cache", resume_from_checkpoint="latest"))
    assert losses(halves) == losses(trained)
    for file in ("unet/diffusion_pytorch_model.safetensors", "checkpoint-4/state/model.safetensors"):
        resumed, whole = load_file(halves / file), load_file(trained / file)
        for name in whole:
            assert torch.equal(resumed[name], whole[name]), name


def test_a_missing_checkpoint_or_folder_is_explained(runs, run_script):
    for changes, message in (
        ({"resume_from_checkpoint": runs / "nowhere"}, "is no checkpoint"),
        ({"train_data_dir": runs / "nowhere"}, "There is no folder"),
        ({"train_batch_size": 200}, "lower `train_batch_size`"),
    ):
        completed = run_script(
            "train.py", *train_options(runs / "bad", runs / "cache", **changes), expect_success=False
        )
        assert completed.returncode == 1 and message in completed.stderr and "Traceback" not in completed.stderr
    assert not (runs / "bad").exists()
