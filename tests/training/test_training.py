"""The training, run in this process on real flowers; what interrupts, resumes or spreads it is in files of its own."""

import json
import math

import pytest
import torch
from conftest import FLOWERS, make_stock_unet, make_unet
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from training_runs import LAST_WEIGHTS, WEIGHTS, assert_same_weights, metrics, small_config, train_here, words

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.machine import usable_cores
from flower_ddim.training.loss import ZERO_NOISE_LOSS
from flower_ddim.training.trainer import Trainer


# The large learning rate of that test soon leaves the zeros of the last layer: another schedule changes the third loss by
# two percent, mirrored pictures by a quarter of one.
RECORDED_LOSSES = [0.7985435, 0.7899507, 0.7779915]


@pytest.fixture(scope="module")
def trained(runs):
    """Output folder of eight steps, validated and previewed after every epoch of one pass."""
    return train_here(
        runs / "trained", validation_epochs=1, dataset_repeats=1, save_images_epochs=1, save_model_epochs=1
    )


def test_what_a_run_leaves_behind(trained):
    pipe = FlowerDDIMPipeline.from_pretrained(trained)
    assert pipe.unet.config.image_mean == pytest.approx([0.47, 0.39, 0.31], abs=0.1)
    assert pipe.unet.config.sample_size == 16
    assert Image.open(trained / "samples.png").size == (32, 32)
    assert Image.open(trained / "samples" / "epoch-0001.png").size == (32, 32)
    assert list(metrics(trained)) == list(range(1, 9))
    assert all(value > 0 for name in ("grad_norm", "images_per_second") for value in metrics(trained, name).values())
    assert set(metrics(trained, "lr").values()) == {1e-3}
    assert metrics(trained, "images")[8] == 128
    assert metrics(trained)[1] == pytest.approx(ZERO_NOISE_LOSS, abs=0.02)  # the untrained network predicts no noise
    assert Image.open(trained / "samples.png").text["Comment"] == "generated with the moving average of step 8"
    assert "hub_token" not in (trained / "training.yaml").read_text()
    for checkpoint in (
        "checkpoint-7",
        "checkpoint-8",
    ):  # the epoch, at whose end a pipeline was saved, has seven steps
        FlowerDDIMPipeline.from_pretrained(trained / checkpoint)
    assert_same_weights(trained / WEIGHTS, trained / "checkpoint-8" / WEIGHTS)


def test_validation_is_on_pictures_set_aside_with_the_same_noise_every_time(trained):
    raw, averaged = metrics(trained, "validation_loss"), metrics(trained, "validation_loss_ema")
    assert (trained / "loss.png").exists()
    assert list(raw) == list(averaged) == [7, 8]  # 115 of 128 pictures make 7 batches of 16
    assert raw[8] < raw[7] < ZERO_NOISE_LOSS + 0.01 and averaged[8] > raw[8]


def test_the_average_equals_one_computed_by_hand_statistics_included(runs):
    train_here(runs / "ema", max_train_steps=4, checkpointing_steps=1, checkpoints_total_limit=0, ema_max_decay=0.9)
    states = [load_file(runs / "ema" / f"checkpoint-{n}" / LAST_WEIGHTS) for n in (1, 2, 3, 4)]
    averages = [load_file(runs / "ema" / f"checkpoint-{n}" / WEIGHTS) for n in (1, 2, 3, 4)]
    for name, average in averages[0].items():
        if not average.is_floating_point():
            assert torch.equal(averages[3][name], states[3][name])
            continue
        for state, result in zip(states[1:], averages[1:], strict=True):
            average = 0.9 * average + 0.1 * state[name]
            torch.testing.assert_close(result[name], average, rtol=1e-4, atol=1e-6, msg=name)
    assert any(name.endswith("running_var") for name in averages[0])


def test_the_learning_rate_follows_the_optimizer_step_also_with_accumulation(runs):
    options = {"lr_scheduler": "linear", "lr_warmup_steps": 2, "max_train_steps": 4, "learning_rate": 0.01}
    for accumulation in (1, 4):
        folder = train_here(runs / f"lr{accumulation}", gradient_accumulation_steps=accumulation, **options)
        assert list(metrics(folder, "lr").values()) == pytest.approx([0.0, 0.005, 0.01, 0.005])


def test_accumulated_batches_hold_the_pictures_noise_and_times_of_the_whole_one(runs):
    shared = {"random_flip": True, "class_conditional": True, "class_dropout": 0.5}
    whole = Trainer(small_config(runs / "one-pass", **shared)).learner.batches.training(5, 0)
    trainer = Trainer(small_config(runs / "four-parts", **shared, train_batch_size=4, gradient_accumulation_steps=4))
    parts = [trainer.learner.batches.training(5, part) for part in range(4)]
    for i, tensor in enumerate(whole):
        assert torch.equal(torch.cat([part[i] for part in parts]), tensor)
    first = []
    for size in (16, 4):
        options = {"train_batch_size": size, "gradient_accumulation_steps": 16 // size, "max_train_steps": 1}
        first.append(metrics(train_here(runs / f"parts-of-{size}", **options))[1])
    assert first[1] == pytest.approx(first[0], abs=1e-6)  # no noise is predicted yet, whatever BatchNorm sees


def test_spread_times_are_even_in_every_share_of_the_batch_and_uniform_over_the_steps(runs):
    trainer = Trainer(small_config(runs / "spread", low_discrepancy_times=True, gradient_accumulation_steps=2))
    times = torch.stack(
        [torch.cat([trainer.learner.batches.training(step, part)[2] for part in (0, 1)]) for step in range(50)]
    )
    assert times.dtype == torch.float32 and times.min() >= 0 and times.max() <= 1
    for share in (times, times[:, :16], times[:, 16:]):
        gaps = share.sort(dim=1).values.diff(dim=1)
        assert gaps.max() < 2.1 / share.shape[1]  # 16 independent times leave a gap of 3.4/16 on average
    histogram = torch.histc(times[:, 0], bins=4, min=0, max=1)
    assert histogram.min() >= 4 and len(set(times[:, 0].tolist())) == 50


def test_recorded_losses(runs):
    """Numbers of an earlier run: whoever changes the mathematics sees it here."""
    folder = train_here(runs / "recorded", max_train_steps=3, seed=0, learning_rate=0.03)
    assert list(metrics(folder).values()) == pytest.approx(RECORDED_LOSSES, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction_type": "v_prediction", "loss": "mse", "max_grad_norm": 0.5, "ema_power": 0.75},
        {"mixed_precision": "bf16", "channels_last": False, "cache_images": "disk", "center_crop": False},
        {"use_ema": False, "schedule": "cosine", "prediction_type": "v_prediction", "dataloader_num_workers": 2},
        {"streaming": True, "resolution": 128, "train_batch_size": 4},
        {"resolution": 32, "block_out_channels": None, "layers_per_block": None},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_options_make_a_working_model(runs, changes):
    folder = train_here(runs / "-".join(changes), max_train_steps=2, **changes)
    pipe = FlowerDDIMPipeline.from_pretrained(folder)
    size = changes.get("resolution", 16)
    assert pipe(num_inference_steps=2).images[0].size == (size, size)
    assert pipe.scheduler.config.prediction_type == changes.get("prediction_type", "epsilon")
    assert pipe.scheduler.schedule == pipe.unet.schedule
    assert all(math.isfinite(loss) for loss in metrics(folder).values())


def test_without_the_average_the_last_weights_are_saved_and_the_average_still_resumes(runs):
    folder = train_here(runs / "raw", use_ema=False, max_train_steps=4)
    assert_same_weights(folder / WEIGHTS, folder / "checkpoint-4" / LAST_WEIGHTS)
    train_here(folder, use_ema=False, resume_from_checkpoint="latest")
    assert_same_weights(folder / WEIGHTS, folder / "checkpoint-8" / LAST_WEIGHTS)


def test_a_run_that_learns_nothing_is_warned_about(runs, caplog):
    train_here(runs / "stuck", learning_rate=0.0, max_train_steps=2)
    assert "still that of predicting no noise" in caplog.text


@pytest.mark.parametrize("warmed", [False, True])
def test_an_average_that_outlives_the_training_is_warned_about(runs, caplog, warmed):
    warm_up = {"ema_power": 1.0, "ema_inv_gamma": 9.0} if warmed else {}
    train_here(runs / f"average-{warmed}", max_train_steps=2, dry_run=True, **warm_up)
    assert ("still holds 100% of the untrained network" in caplog.text) is not warmed


@pytest.mark.skipif(usable_cores() < 2, reason="of one core none stays idle")
def test_cores_that_stay_idle_are_warned_about(runs, caplog):
    threads = torch.get_num_threads()
    try:
        for number in (usable_cores(), 1):
            torch.set_num_threads(number)
            train_here(runs / f"threads-{number}", dry_run=True)
            assert ("computes in one thread" in caplog.text) is (number == 1)
    finally:
        torch.set_num_threads(threads)


def test_streaming_says_what_it_cannot_do(runs, caplog):
    train_here(runs / "streamed", streaming=True, max_train_steps=1)
    assert "begins the stream anew" in caplog.text


def test_grey_pictures_make_a_grey_model(runs):
    (runs / "grey").mkdir()
    for i, pixels in enumerate(decode_images(open_dataset(data_dir=str(FLOWERS)), 16)[range(32)]):
        Image.fromarray(pixels).convert("L").save(runs / "grey" / f"{i}.png")
    unet = make_unet(sample_size=16)
    unet.save_config(runs / "coloured")
    options = {
        "model_config_name_or_path": str(runs / "coloured"),
        "block_out_channels": None,
        "layers_per_block": None,
    }
    folder = train_here(runs / "grey-coloured", train_data_dir=str(runs / "grey"), max_train_steps=1, **options)
    assert len(FlowerDDIMPipeline.from_pretrained(folder).unet.config.image_mean) == 3
    folder = train_here(runs / "grey-model", train_data_dir=str(runs / "grey"), max_train_steps=2)
    assert FlowerDDIMPipeline.from_pretrained(folder)(num_inference_steps=2).images[0].mode == "L"


def test_a_stock_unet_trains_too(runs):
    make_stock_unet().save_config(runs / "stock-config")
    options = {"model_config_name_or_path": str(runs / "stock-config"), "block_out_channels": None}
    folder = train_here(runs / "stock", **options, layers_per_block=None)
    pipe = FlowerDDIMPipeline.from_pretrained(folder)
    assert type(pipe.unet) is UNet2DModel
    assert pipe.unet.config.image_mean == pytest.approx([0.47, 0.39, 0.31], abs=0.1)
    pipe(num_inference_steps=2)
    train_here(folder, **options, layers_per_block=None, resume_from_checkpoint="latest", max_train_steps=9)


def test_fine_tuning_starts_from_the_weights_and_statistics_of_the_model(runs, caplog):
    unet = make_unet(image_mean=0.25, image_std=0.125)
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler(prediction_type="v_prediction")).save_pretrained(runs / "base")
    options = {"init_from": str(runs / "base"), "block_out_channels": None, "layers_per_block": None}
    folder = train_here(runs / "tuned", **options, max_train_steps=1, learning_rate=0.0)
    pipe = FlowerDDIMPipeline.from_pretrained(folder)
    assert pipe.unet.config.image_mean == 0.25 and pipe.scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(pipe.unet.conv_in.weight, unet.conv_in.weight)
    assert "channel statistics of" in caplog.text and "0.125" in caplog.text


def test_fine_tuning_goes_with_a_recipe_that_says_what_the_model_says(runs):
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler(prediction_type="v_prediction")).save_pretrained(runs / "said")
    options = {"init_from": str(runs / "said"), "block_out_channels": None, "layers_per_block": None}
    same = {"prediction_type": "v_prediction", "schedule": "offset_cosine"}
    train_here(runs / "as-said", **options, **same, max_train_steps=1)
    for other in ({"prediction_type": "epsilon"}, {"schedule": "cosine"}):
        with pytest.raises(ValueError, match="but the network was made for (v_prediction|offset_cosine): take that"):
            train_here(runs / "otherwise", **options, **same | other, max_train_steps=1)


def test_a_resolution_that_does_not_fit_the_network_is_refused(runs):
    make_unet().save_config(runs / "three-levels")
    options = {
        "model_config_name_or_path": str(runs / "three-levels"),
        "block_out_channels": None,
        "layers_per_block": None,
    }
    with pytest.raises(ValueError, match="`sample_size` is 18"):
        train_here(runs / "odd", resolution=18, **options)
    assert not (runs / "odd").exists()


def test_muon_in_fp16_is_refused(runs):
    with pytest.raises(ValueError, match="choose bf16"):
        train_here(runs / "half", optimizer="muon", mixed_precision="fp16")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(runs, capsys):
    folder = train_here(runs / "dry", dry_run=True, hub_token="hf_secret", max_train_steps=10)
    printed = capsys.readouterr().out
    for line in (
        "resolution: 16",
        "optimizer_steps: 10",
        "pictures_seen: 160",
        "parameters:",
        "gflop_per_image_forward:",
        "pictures: 128",
        "files_skipped:\n    .md: 1\n",
        "steps_per_epoch: 40",
        "first_samples_at_step: 10",
        "rough_seconds_per_step:",
    ):
        assert line in printed
    assert "hf_secret" not in printed and not folder.exists()


def test_a_tracker_is_told_the_same_numbers(runs):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    folder = train_here(runs / "tracked", logger="tensorboard", max_train_steps=2)
    assert list((folder / "logs").rglob("events.out.tfevents.*"))


def test_compiling_without_a_compiler_is_refused_with_the_remedy(runs, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no no-such-compiler here: install it, or leave `--compile` out"):
        Trainer(small_config(runs / "no-compiler", compile=True))


def test_sync_batchnorm_needs_gpus(runs):
    with pytest.raises(ValueError, match="`sync_batchnorm` needs GPUs"):
        train_here(runs / "sync", sync_batchnorm=True)
    assert not (runs / "sync").exists()


def test_the_script_trains_from_a_recipe_and_explains_mistakes(runs, run_script):
    (runs / "recipe.json").write_text(json.dumps({"max_train_steps": 1, "learning_rate": 1e-4}))
    completed = run_script("train.py", runs / "recipe.json", *words(runs / "script", max_train_steps=None))
    assert f"The trained pipeline is in {runs / 'script'}" in completed.stdout
    assert "predicts no noise at all has a mean absolute error of 0.798" in completed.stderr
    assert metrics(runs / "script", "lr") == {1: 1e-4}
    missing = words(runs / "bad", train_data_dir=runs / "nowhere")
    completed = run_script("train.py", *missing, expect_success=False)
    assert completed.returncode == 1 and "There is no folder" in completed.stderr
    assert "Traceback" not in completed.stderr and not (runs / "bad").exists()


def test_samples_can_come_between_epochs(runs):
    folder = train_here(runs / "sampled", max_train_steps=5, save_images_steps=2)
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["step-0000002.png", "step-0000004.png"]


def test_a_run_says_how_its_batch_is_made_up(runs, caplog):
    caplog.set_level("INFO")
    train_here(runs / "told", dry_run=True, gradient_accumulation_steps=2)
    assert "32 pictures a step: 1 processes × 16 × 2 forward passes." in caplog.text
    assert "RANK" not in caplog.text
