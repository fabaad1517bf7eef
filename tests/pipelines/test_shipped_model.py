import pytest
import torch
from conftest import load_pipeline, seeds
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from flower_ddim import PRETRAINED, FlowerDDIMPipeline, pretrained


@pytest.fixture(scope="module")
def shipped():
    return load_pipeline(PRETRAINED)


def test_the_shipped_model_paints_pictures(shipped):
    """Not noise and not a flat colour: neighbouring pixels agree, and the colours are about those of the flowers."""
    images = shipped(batch_size=8, generator=seeds(*range(8)), output_type="pt").images
    assert images.shape == (8, 3, 64, 64)
    assert 0.1 < images.std() < 0.4
    assert (images[..., 1:] - images[..., :-1]).abs().mean() < 0.1
    means = torch.tensor(shipped.unet.config.image_mean)
    assert (images.mean((0, 2, 3)) - means).abs().max() < 0.2


@pytest.mark.parametrize(
    "stock, bound",
    [
        # Root mean square distance of 4 images, as a fraction of the range of pixels, from what 100 DDIM steps make of the same
        # noise; measured 0.024, 0.024, 0.017, 0.011 and, because it adds noise, 0.26. Other images are 0.33 away.
        (DDIMScheduler, 0.05),
        (EulerDiscreteScheduler, 0.05),
        (DPMSolverMultistepScheduler, 0.035),
        (UniPCMultistepScheduler, 0.025),
        (DDPMScheduler, 0.3),
    ],
)
def test_the_shipped_model_paints_the_same_with_other_solvers(shipped, stock, bound):
    latents = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = shipped(latents=latents, num_inference_steps=100, output_type="pt").images
    other = FlowerDDIMPipeline(shipped.unet, stock.from_config(shipped.scheduler.config))
    other.set_progress_bar_config(disable=True)
    images = other(latents=latents, generator=seeds(1)[0], output_type="pt").images
    distance = (images - expected).square().mean().sqrt()
    others = (expected.roll(1, 0) - expected).square().mean().sqrt()
    print(stock.__name__, distance, others)
    assert distance < bound < others


def test_swapping_the_scheduler_warns_of_nothing(shipped, caplog):
    caplog.set_level("WARNING", logger="diffusers")
    for stock in (DDIMScheduler, DPMSolverMultistepScheduler):
        stock.from_config(shipped.scheduler.config)
    assert "not expected" not in caplog.text


def test_the_shipped_student_makes_its_teachers_pictures_in_four_steps(shipped):
    student = load_pipeline(pretrained("flower-ddim-64-4"))
    latents = torch.randn(4, *shipped.latent_shape, generator=torch.Generator().manual_seed(0))
    wanted = shipped(latents=latents, output_type="pt").images
    found = student(latents=latents, output_type="pt").images
    assert student.num_timesteps == 4
    hurried = shipped(latents=latents, num_inference_steps=4, output_type="pt").images
    distances = [(images - wanted).square().mean().sqrt() for images in (found, hurried)]
    assert distances[0] < 0.5 * distances[1]
