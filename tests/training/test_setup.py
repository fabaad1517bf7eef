"""What is refused, and what is not, before a training begins."""

import pytest
from conftest import make_unet
from PIL import Image
from training_runs import SMALL, train_here

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


@pytest.mark.parametrize("rates", [{"min_signal_rate": 5e-4}, {"schedule": "cosine"}], ids=str)
def test_noise_as_target_where_no_signal_is_left_is_refused_before_the_training(runs, rates):
    make_unet(**rates).save_config(runs / str(rates))
    options = {"model_config_name_or_path": str(runs / str(rates)), "max_train_steps": 1}
    options |= {"block_out_channels": None, "layers_per_block": None}
    with pytest.raises(ValueError, match='leaves no signal at its last timestep.*`prediction_type="v_prediction"`'):
        train_here(runs / "no-signal", **options)
    assert not (runs / "no-signal").exists()
    train_here(runs / f"velocity-{rates}", **options, prediction_type="v_prediction")


@pytest.mark.parametrize("plain", [40, 80])
def test_a_dry_run_does_not_fail_where_it_sees_plain_pictures(runs, capsys, plain):
    """Of the first ones nothing can be learned, but of all."""
    folder = runs / f"plain-{plain}"
    folder.mkdir()
    for i in range(80):
        colour = (10, 20, 30) if i < plain else (10 + i, 200 - i, i)
        Image.new("RGB", (16, 16), colour).save(folder / f"{i:02}.png")
    train_here(runs / "dry", train_data_dir=str(folder), dry_run=True)
    assert "pictures: 80" in capsys.readouterr().out and not (runs / "dry").exists()


def test_a_dry_run_looks_at_pictures_from_everywhere(runs, capsys):
    """The grey ones come first; the network of three channels has more parameters."""
    sizes = []
    for grey in (40, 80):
        folder = runs / f"grey-{grey}"
        folder.mkdir()
        for i in range(80):
            Image.new("RGB", (16, 16), (i, i, i) if i < grey else (i, 100, 0)).save(folder / f"{i:02}.png")
        train_here(runs / "dry", train_data_dir=str(folder), dry_run=True)
        sizes += [line for line in capsys.readouterr().out.splitlines() if "parameters:" in line]
    assert len(set(sizes)) == 2


def test_a_dry_run_of_a_training_that_measures_kid_needs_no_pictures_for_it(runs, capsys):
    train_here(runs / "dry-kid", dry_run=True, eval_kid_epochs=1, validation_epochs=1)
    assert "rough_seconds_per_step" in capsys.readouterr().out


def test_a_student_is_no_start_for_an_ordinary_training(runs):
    unet = make_unet(sample_size=SMALL["resolution"], distilled_guidance_scale=1.0, default_num_inference_steps=4)
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler()).save_pretrained(runs / "student")
    options = {"block_out_channels": None, "layers_per_block": None, "init_from": str(runs / "student")}
    with pytest.raises(ValueError, match="`init_from` .*student is a student, for few steps only: name its teacher"):
        train_here(runs / "from-student", **options)


def test_a_network_is_built_of_the_blocks_that_are_asked_for(runs):
    blocks = {"patch_size": 2, "norm_num_groups": 4, "attention_head_dim": 4}
    folder = train_here(runs / "blocks", **blocks, max_train_steps=3)
    config = FlowerDDIMPipeline.from_pretrained(folder).unet.config
    assert {name: config[name] for name in blocks} == blocks
    with pytest.raises(ValueError, match="`growth_steps` needs a `patch_size` of 1"):
        train_here(runs / "growing-patches", **blocks, growth_steps=[1])
    assert not (runs / "growing-patches").exists()
