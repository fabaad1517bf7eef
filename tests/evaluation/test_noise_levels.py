import pytest
import torch
from conftest import FLOWERS, make_unet
from diffusers import DDIMScheduler

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler, FlowerUNet2DModel
from flower_ddim.data.decoding import decode_images
from flower_ddim.data.sources import open_dataset
from flower_ddim.evaluation.noise_levels import loss_by_noise_level, velocity_errors


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


def test_the_loss_is_the_same_under_a_stock_scheduler(flowers):
    unet, scheduler = make_unet(), FlowerDDIMScheduler()
    stock = FlowerDDIMPipeline(unet, DDIMScheduler.from_config(scheduler.config))
    options = {"bins": 2, "num_images": 8}
    assert loss_by_noise_level(stock, flowers, **options) == loss_by_noise_level(
        FlowerDDIMPipeline(unet, scheduler), flowers, **options
    )


def test_velocity_errors_stay_finite_where_there_is_no_signal():
    scheduler = FlowerDDIMScheduler(schedule="cosine")
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    errors = velocity_errors(make_unet(schedule="cosine"), scheduler, noise, noise, torch.ones(4))
    assert errors.isfinite().all() and errors.max() < 1e7
