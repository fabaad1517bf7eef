import json

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    IPNDMScheduler,
    UniPCMultistepScheduler,
)

from flower_ddim import FlowerDDIMScheduler


def through_json(scheduler, tmp_path):
    scheduler.save_pretrained(tmp_path)
    return type(scheduler).load_config(tmp_path)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 20, 50, 100])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_stock_ddim_made_from_our_configuration_agrees(pipe, noise, tmp_path, n, prediction_type):
    pipe.scheduler = ours = FlowerDDIMScheduler(prediction_type=prediction_type)
    expected = pipe(latents=noise, num_inference_steps=n, output_type="latent").images
    for config in (ours.config, through_json(ours, tmp_path)):
        pipe.scheduler = DDIMScheduler.from_config(config)
        images = pipe(latents=noise, num_inference_steps=n, output_type="latent").images
        assert (images - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_our_scheduler_comes_back_from_a_stock_one_and_from_json(tmp_path):
    ours = FlowerDDIMScheduler(max_signal_rate=0.9, prediction_type="v_prediction")
    stock = DPMSolverMultistepScheduler.from_config(ours.config)
    back = FlowerDDIMScheduler.from_config(stock.config)
    loaded = FlowerDDIMScheduler.from_pretrained((ours.save_pretrained(tmp_path), tmp_path)[1])
    for scheduler in (back, loaded):
        assert scheduler.schedule == ours.schedule
        assert scheduler.config.prediction_type == "v_prediction"
        assert scheduler.config.timestep_spacing == "trailing"
        assert scheduler.config.trained_betas == ours.config.trained_betas


def test_the_schedule_of_a_stock_scheduler_is_recognised_or_refused():
    linear = FlowerDDIMScheduler.from_config(DDPMScheduler(num_train_timesteps=500).config)
    assert linear.config.schedule == "linear" and linear.config.num_train_timesteps == 500
    torch.testing.assert_close(linear.alphas_cumprod, DDPMScheduler(num_train_timesteps=500).alphas_cumprod)
    ours = FlowerDDIMScheduler(schedule="cosine")
    back = FlowerDDIMScheduler.from_config(DDIMScheduler(trained_betas=ours.config.trained_betas).config)
    assert back.config.schedule == "cosine"
    squared = DDPMScheduler(beta_schedule="squaredcos_cap_v2").config
    with pytest.raises(ValueError, match="squaredcos_cap_v2.* is none of linear, cosine, offset_cosine"):
        FlowerDDIMScheduler.from_config(squared)
    assert FlowerDDIMScheduler.from_config(squared, schedule="cosine").config.schedule == "cosine"


@pytest.mark.parametrize(
    "config",
    [
        FlowMatchEulerDiscreteScheduler().config,
        FlowMatchHeunDiscreteScheduler().config,
        EDMEulerScheduler().config,
        EDMDPMSolverMultistepScheduler().config,
        CMStochasticIterativeScheduler().config,
        IPNDMScheduler().config,
        UniPCMultistepScheduler(use_flow_sigmas=True).config,
        DDIMScheduler(rescale_betas_zero_snr=True).config,
        DDPMScheduler(beta_schedule="scaled_linear").config,
        {"beta_schedule": "spiral"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    ],
)
def test_other_families_of_schedules_are_refused_live_and_from_files(config):
    config = {name: value for name, value in config.items() if name != "_use_default_values"}
    for given in (config, json.loads(json.dumps(config))):
        with pytest.raises(
            ValueError, match="is none of linear, cosine, offset_cosine: keep its own scheduler, or name"
        ):
            FlowerDDIMScheduler.from_config(given)
    if config.get("rescale_betas_zero_snr"):  # its betas were made by a rule, and given by nobody
        with pytest.raises(ValueError, match=r"\(by its betas\) is none"):
            FlowerDDIMScheduler.from_config(config)
    assert FlowerDDIMScheduler.from_config(config, schedule="cosine").config.schedule == "cosine"


@pytest.mark.parametrize("other", [EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, IPNDMScheduler])
def test_our_schedule_is_recognised_wherever_it_is_kept(other):
    """Whatever class was made from our configuration keeps our table for those that can use it."""
    ours = FlowerDDIMScheduler(schedule="cosine", num_train_timesteps=500)
    back = FlowerDDIMScheduler.from_config(other.from_config(ours.config).config)
    assert back.schedule == ours.schedule


@pytest.mark.parametrize("config", [{}, {"clip_sample": True}, {"_class_name": "FlowerDDIMScheduler"}])
def test_what_a_configuration_of_ours_does_not_say_is_as_usual(config):
    assert FlowerDDIMScheduler.from_config(config).schedule == FlowerDDIMScheduler().schedule


@pytest.mark.parametrize(
    "arguments", [{}, {"schedule": "linear"}, {"num_train_timesteps": 500, "max_signal_rate": 0.9}]
)
def test_the_configuration_is_the_same_before_and_after_saving(arguments, tmp_path):
    scheduler = FlowerDDIMScheduler(**arguments)
    before = dict(scheduler.config)
    scheduler.save_pretrained(tmp_path)
    assert dict(scheduler.config) == before == dict(FlowerDDIMScheduler.from_pretrained(tmp_path).config)
    assert dict(FlowerDDIMScheduler.from_config(scheduler.config).config) == before


def test_a_changed_argument_changes_the_table_for_stock_schedulers():
    changed = FlowerDDIMScheduler.from_config(FlowerDDIMScheduler().config, schedule="linear")
    assert changed.config.trained_betas == FlowerDDIMScheduler(schedule="linear").config.trained_betas
    stock = DDIMScheduler.from_config(changed.config)
    torch.testing.assert_close(stock.alphas_cumprod, changed.alphas_cumprod)


def test_the_five_compatible_classes_are_named():
    assert {c.__name__ for c in FlowerDDIMScheduler().compatibles} == {
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
    }
