import math

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


@torch.no_grad()
def test_the_loop_of_the_chapter_makes_the_pictures_of_the_pipeline():
    """Listing 8-11 with the schedule of listing 8-4, which divide by a signal rate of 0.02 at first."""
    book = load_pipeline(pretrained("flower-ddim-64-book"))
    latents = torch.randn(2, *book.latent_shape, generator=torch.Generator().manual_seed(0))

    def rates(time):
        start, end = math.acos(0.95), math.acos(0.02)
        angle = torch.tensor(start + time * (end - start), dtype=torch.float64)
        return torch.cos(angle).float(), torch.sin(angle).float()

    noisy = latents
    for step in range(20):
        time = 1 - step / 20
        signal_rate, noise_rate = rates(time)
        noise = book.unet(noisy, 1000 * time - 1).sample
        image = (noisy - noise_rate * noise) / signal_rate
        next_signal_rate, next_noise_rate = rates(time - 1 / 20)
        noisy = next_signal_rate * image + next_noise_rate * noise
    made = book(latents=latents, output_type="latent").images
    torch.testing.assert_close(image, made, atol=1e-4, rtol=0)


def test_flowers_have_the_colours_of_their_names():
    pipe = load_pipeline(pretrained("flower-ddim-64-names"))
    assert len(pipe.labels) == 102
    names = ["sunflower", "corn poppy", "stemless gentian", "windflower"]
    latents = torch.randn(1, *pipe.latent_shape, generator=torch.Generator().manual_seed(1)).expand(4, -1, -1, -1)
    images = pipe(class_labels=names, latents=latents, output_type="pt").images
    sunflower, poppy, gentian, windflower = images[..., 16:48, 16:48].mean((2, 3))
    assert sunflower[0] > sunflower[2] + 0.2 and sunflower[1] > sunflower[2] + 0.1  # yellow
    assert poppy[0] > poppy[1:].max() + 0.2  # red
    assert gentian[2] > gentian[:2].max() + 0.1  # blue
    assert windflower.std() < 0.1  # white


def test_the_student_generates_the_flowers_of_its_teacher_by_name():
    teacher, student = (load_pipeline(pretrained(f"flower-ddim-64-names{end}")) for end in ("", "-4"))
    names = ["sunflower", "corn poppy", "stemless gentian"]
    latents = torch.randn(3, *teacher.latent_shape, generator=torch.Generator().manual_seed(0))
    as_taught = {"class_labels": names, "latents": latents, "output_type": "pt", "guidance_scale": 3.0}
    wanted = teacher(num_inference_steps=64, **as_taught).images
    found = student(class_labels=names, latents=latents, output_type="pt").images
    assert student.num_timesteps == 4
    hurried = teacher(num_inference_steps=4, **as_taught).images
    distances = [(images - wanted).square().mean().sqrt() for images in (found, hurried)]
    assert distances[0] < 0.8 * distances[1]
