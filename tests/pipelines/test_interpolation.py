import math

import pytest
import torch

from flower_ddim.pipelines.interpolation import noise_path


def test_interpolation_turns_from_one_noise_to_the_other(pipe, noise):
    a, b = noise[0], noise[1:]
    images = pipe.interpolate(a, b, num_images=5, num_inference_steps=3, output_type="pt").images
    assert images.shape == (5, 3, 16, 16)
    angles = torch.linspace(0, math.pi / 2, 5).reshape(-1, 1, 1, 1)
    path = a[None] * angles.cos() + b * angles.sin()
    expected = pipe(latents=path, num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    ends = pipe(latents=noise, num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(images[[0, -1]], ends, rtol=0, atol=1e-4)


def test_interpolation_keeps_unit_variance():
    anchors = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    path = noise_path(anchors, num_images=11, closed=False, rescale=False)
    torch.testing.assert_close(path.var((1, 2, 3)), torch.ones(11), rtol=0, atol=0.05)
    torch.testing.assert_close(path[[0, -1]], anchors)


def test_interpolation_through_several_noises(pipe):
    anchors = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    kwargs = {"num_images": 4, "num_inference_steps": 2, "output_type": "pt"}
    opened = pipe.interpolate(*anchors, **kwargs).images
    closed = pipe.interpolate(anchors, closed=True, **kwargs).images
    assert len(opened) == 7 and len(closed) == 9
    torch.testing.assert_close(closed[:7], opened, rtol=0, atol=1e-4)
    for i in range(3):
        section = pipe.interpolate(anchors[i], anchors[(i + 1) % 3], **kwargs).images
        torch.testing.assert_close(closed.roll(-3 * i, 0)[:3], section[:3], rtol=0, atol=1e-4)


def test_rescaled_interpolation_goes_evenly_from_one_deviation_to_the_other():
    a, b = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    path = noise_path(torch.stack([1.4 * a, 0.7 * b]), num_images=5, closed=False, rescale=True)
    expected = 1.4 * 0.5 ** torch.linspace(0, 1, 5)
    torch.testing.assert_close(path.std((1, 2, 3)), expected, rtol=0.03, atol=0)
    torch.testing.assert_close(path[[0, -1]], torch.stack([1.4 * a, 0.7 * b]))


def test_interpolation_needs_two_noises_and_two_images(pipe, noise):
    with pytest.raises(ValueError, match="num_images"):
        pipe.interpolate(noise[0], noise[1], num_images=1)
    with pytest.raises(ValueError, match=r"anchors\[1\]"):
        pipe.interpolate(noise[0], noise[1, :, :8])
    for anchors in ([], [noise[0]], [noise[:0]]):
        with pytest.raises(ValueError, match="at least two"):
            pipe.interpolate(*anchors)
