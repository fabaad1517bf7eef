"""`pipe.invert`, and the preprocessing of pictures that it shares with figures and scripts."""

import numpy as np
import pytest
import torch
from conftest import make_unet
from diffusers import DDIMScheduler
from PIL import Image

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.data.decoding import fit_image


@pytest.fixture
def pictures():
    """Two smooth coloured pictures, float32 in [0, 1]."""
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear") * 0.8 + 0.1


def make_pipe(prediction_type="epsilon", scheduler_config=None, **unet_config):
    unet = make_unet(**unet_config)
    # Gentle enough that the fixed point of every step exists, as in a trained network.
    torch.nn.init.normal_(unet.conv_out.weight, 0, 0.1, generator=torch.Generator().manual_seed(0))
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler(prediction_type=prediction_type, **scheduler_config or {}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def error_of_rebuilt(pipe, pictures, num_inference_steps, **kwargs):
    noise = pipe.invert(pictures, num_inference_steps, **kwargs)
    latents = pipe(latents=noise, num_inference_steps=num_inference_steps, output_type="latent").images
    return (latents - pipe.preprocess(pictures)).abs().mean().item()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_generation_from_the_noise_gives_the_picture_back(prediction_type, pictures):
    pipe = make_pipe(prediction_type)
    errors = [error_of_rebuilt(pipe, pictures, 10, num_fixed_point_iterations=k) for k in (1, 2, 3, 4, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_inversion_finds_the_noise_that_an_image_was_made_of(noise):
    pipe = make_pipe("v_prediction", image_mean=0.5, image_std=0.05)  # so that no pixel leaves [0, 1]
    images = pipe(latents=noise, num_inference_steps=8, output_type="pt").images
    assert images.min() > 0 and images.max() < 1
    found = pipe.invert(images, num_inference_steps=8, num_fixed_point_iterations=30)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-3)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_other_schedules_can_be_inverted(schedule, pictures):
    pipe = make_pipe("v_prediction", {"schedule": schedule}, schedule=schedule)
    assert error_of_rebuilt(pipe, pictures, 10, num_fixed_point_iterations=30) < 1e-3


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_one_step_of_the_scheduler_is_undone_exactly(prediction_type):
    """A sample is the fixed point of the iteration towards where its step leads."""
    scheduler = FlowerDDIMScheduler(prediction_type=prediction_type)
    scheduler.set_timesteps(7)
    sample, output = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for timestep in scheduler.timesteps:
        prev_sample = scheduler.step(output, timestep, sample).prev_sample
        found = scheduler.invert_step(output, timestep, sample, prev_sample)
        torch.testing.assert_close(found, sample, rtol=0, atol=1e-4)


def test_predicted_images_are_inverted_like_the_velocities_they_mean():
    ours, theirs = (FlowerDDIMScheduler(prediction_type=p) for p in ("sample", "v_prediction"))
    ours.set_timesteps(5)
    theirs.set_timesteps(5)
    sample, velocity = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for timestep in ours.timesteps:
        image = theirs.step(velocity, timestep, sample).pred_original_sample
        found = ours.invert_step(image, timestep, sample, image)
        torch.testing.assert_close(found, theirs.invert_step(velocity, timestep, sample, image), rtol=0, atol=1e-4)


def test_inversion_leaves_the_training_mode_alone(pictures):
    pipe = make_pipe("v_prediction")
    expected = pipe.invert(pictures, 3)
    pipe.unet.train()
    assert torch.equal(pipe.invert(pictures, 3), expected) and pipe.unet.training
    assert expected.shape == (2, 3, 16, 16) and expected.dtype == torch.float32


def test_what_cannot_be_inverted_is_explained(pictures):
    pipe = make_pipe()
    for arguments, name in (((0, 3), "num_inference_steps"), ((5, 0), "num_fixed_point_iterations")):
        with pytest.raises(ValueError, match=name):
            pipe.invert(pictures, *arguments)
    for scheduler in (
        DDIMScheduler.from_config(pipe.scheduler.config),
        FlowerDDIMScheduler(clip_sample=True),
    ):
        pipe.scheduler = scheduler
        with pytest.raises(ValueError, match="FlowerDDIMScheduler with `clip_sample=False`"):
            pipe.invert(pictures)
    pipe.scheduler = FlowerDDIMScheduler(schedule="linear")
    with pytest.raises(ValueError, match="another noise schedule"):
        pipe.invert(pictures)


def test_preprocessing_is_that_of_the_training():
    array = np.random.default_rng(0).integers(0, 256, (40, 72, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    pipe = make_pipe(image_mean=(0.4, 0.5, 0.6), image_std=(0.1, 0.2, 0.3))
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    expected = torch.from_numpy(np.array(fit_image(image, 16)) / 255).float()
    pixels = pipe.preprocess(image)[0].permute(1, 2, 0) * std + mean
    assert (pixels - expected).abs().max() < 0.501 / 255  # the training rounds once


def test_every_form_of_a_picture_means_the_same():
    pipe = make_pipe()
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = pipe.preprocess(Image.fromarray(array))
    assert expected.shape == (1, 3, 16, 16)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = (
        array,
        array / 255,
        np.flip(array, 0)[::-1],
        array[None],
        tensor,
        tensor / 255,
        tensor[None],
        [Image.fromarray(array)],
        [tensor],
    )
    for form in forms:
        torch.testing.assert_close(pipe.preprocess(form), expected, rtol=0, atol=1e-5)
    mixed = pipe.preprocess([Image.fromarray(array), np.stack([array[:10], array[10:]]), tensor])
    assert mixed.shape == (4, 3, 16, 16)
    torch.testing.assert_close(mixed[[0, 3]], expected.expand(2, -1, -1, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_mode_fit_grey_and_coloured_models(mode, channels):
    array = np.full((24, 32), 51, dtype=np.uint8)
    image = Image.fromarray(array.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(array).convert(mode)
    pipe = make_pipe(in_channels=channels, out_channels=channels)
    pixels = pipe.preprocess(image) * 0.5 + 0.5
    assert pixels.shape == (1, channels, 16, 16)
    assert mode == "1" or (pixels - 0.2).abs().max() < 0.01
    transparent = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    torch.testing.assert_close(pipe.preprocess(transparent), torch.ones(1, channels, 16, 16))


def test_pictures_are_cut_to_the_proportions_of_the_model():
    pipe = make_pipe(sample_size=(8, 16))
    columns = torch.linspace(0, 1, 20).expand(3, 20, 20)
    pixels = pipe.preprocess(columns.mT) * 0.5 + 0.5
    assert pixels.shape == (1, 3, 8, 16)
    assert pixels[0, 0, 0, 0] > 0.2 and pixels[0, 0, -1, 0] < 0.8
    torch.testing.assert_close(pixels[..., 0], pixels[..., -1])


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "empty"),
        (torch.zeros(0, 3, 16, 16), "empty"),
        (torch.zeros(3, 0, 16), "at least one pixel"),
        (torch.zeros(5, 16, 16), "channels"),
        (torch.zeros(16, 16), "no picture"),
        ("flower.png", "no picture"),
        (torch.full((3, 16, 16), 1.5), "[0, 1]"),
        (-torch.ones(3, 16, 16), "[0, 1]"),
        (torch.full((3, 16, 16), float("nan")), "finite"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), "int64"),
    ],
)
def test_unusable_pictures_are_explained(images, message):
    with pytest.raises(ValueError) as error:
        make_pipe().preprocess(images)
    assert message in str(error.value)
