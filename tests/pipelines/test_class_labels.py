"""Classes by name, and guidance."""

import pytest
import torch
from conftest import load_pipeline, make_labelled_unet, make_stock_unet, make_unet, seeds
from diffusers import UNet2DModel

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


@pytest.fixture
def pipe():
    pipe = FlowerDDIMPipeline(make_labelled_unet(), FlowerDDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, count=2, **kwargs):
    return pipe(generator=seeds(*range(count)), num_inference_steps=3, output_type="pt", **kwargs).images


@pytest.mark.parametrize("label", ["sun-flower", "Sunflower", "SUN_FLOWER", "sun flower", 2, torch.tensor(2)])
def test_a_class_has_a_name_that_may_be_written_in_many_ways(pipe, label):
    expected = generate(pipe, class_labels=torch.tensor([2, 2]))
    assert torch.equal(generate(pipe, 2, batch_size=2, class_labels=label), expected)
    assert not torch.allclose(generate(pipe, 2, batch_size=2), expected)
    assert pipe.labels == {"rose": 0, "Rose hip": 1, "sun-flower": 2}
    assert pipe.get_label_ids(["Rose Hip", None, 0]) == [1, 3, 0]


def test_one_class_for_all_or_one_for_each(pipe):
    images = generate(pipe, 3, class_labels=["rose", None, "sunflower"])
    for i, label in enumerate(("rose", None, "sunflower")):
        one = pipe(generator=seeds(i), num_inference_steps=3, output_type="pt", class_labels=label).images
        torch.testing.assert_close(images[i : i + 1], one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_goes_from_no_class_through_the_class_and_beyond(pipe, noise, scale):
    unet, labels, timestep = pipe.unet, torch.tensor([0, 2]), torch.tensor(999.0)
    with torch.no_grad():
        null, labelled = unet(noise, timestep).sample, unet(noise, timestep, labels).sample
    state = next(pipe.denoise(noise, 4, class_labels=labels, guidance_scale=scale))
    pipe.scheduler.set_timesteps(4)
    expected = pipe.scheduler.step(null + scale * (labelled - null), timestep, noise).prev_sample
    torch.testing.assert_close(state.latents, expected, rtol=0, atol=1e-4)


def test_the_model_recommends_steps_and_guidance(noise, tmp_path):
    unet = make_labelled_unet(default_num_inference_steps=4, default_guidance_scale=2.5)
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler()).save_pretrained(tmp_path)
    pipe = load_pipeline(tmp_path)
    assert list(pipe.labels) == ["rose", "Rose hip", "sun-flower"]
    images = pipe(latents=noise, class_labels="rose", output_type="pt").images
    assert pipe.num_timesteps == 4
    options = {"latents": noise, "class_labels": "rose", "num_inference_steps": 4, "output_type": "pt"}
    assert torch.equal(pipe(guidance_scale=2.5, **options).images, images)
    assert not torch.allclose(pipe(guidance_scale=1.0, **options).images, images, atol=1e-3)
    assert torch.equal(pipe(latents=noise, output_type="pt").images, pipe(latents=noise, output_type="pt").images)


def test_images_do_not_depend_on_their_batch(pipe):
    together = generate(pipe, 2, class_labels=["rose", "sunflower"], guidance_scale=2.0)
    alone = generate(pipe, 1, class_labels=["rose"], guidance_scale=2.0)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("closed", [False, True])
def test_interpolation_walks_from_one_class_to_the_other(pipe, noise, closed):
    options = {"num_inference_steps": 3, "output_type": "pt"}
    anchors = noise[0], noise[0]
    walk = pipe.interpolate(
        *anchors, class_labels=("rose", "sunflower"), num_images=4, closed=closed, **options
    ).images
    assert len(walk) == (6 if closed else 4)
    weights = torch.tensor([[2 / 3, 0, 1 / 3, 0]])
    for number, label in ((0, "rose"), (1, weights), (3, "sunflower")):
        expected = pipe(latents=noise[:1], class_labels=label, **options).images
        torch.testing.assert_close(walk[number : number + 1], expected, rtol=0, atol=1e-4)
    same = pipe.interpolate(*noise, class_labels="rose", num_images=3, **options).images
    expected = pipe(latents=noise[:1], class_labels="rose", **options).images
    torch.testing.assert_close(same[:1], expected, rtol=0, atol=1e-4)


def test_inversion_finds_the_noise_of_a_class(pipe, noise):
    pipe.scheduler = FlowerDDIMScheduler(prediction_type="v_prediction")
    options = {"class_labels": ["rose", "sunflower"], "guidance_scale": 1.5, "num_inference_steps": 5}
    images = pipe(latents=0.5 * noise, output_type="latent", **options).images
    images = (0.5 + 0.5 * images).clamp(0, 1)
    inverted = pipe.invert(images, num_fixed_point_iterations=10, **options)
    again = pipe(latents=inverted, output_type="pt", **options).images
    assert (again - images).abs().mean() < 0.01


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"class_labels": "sunflwer"}, "no class 'sunflwer': did you mean 'sun-flower'"),
        ({"class_labels": "x"}, "no class 'x': `pipe.labels` lists them"),
        ({"class_labels": 3}, "no class 3: indices are whole numbers from 0 to 2"),
        ({"class_labels": -1}, "no class -1"),
        ({"class_labels": 1.5}, "no class 1.5"),
        ({"class_labels": torch.tensor([3])}, "no class 3"),
        ({"class_labels": []}, "`class_labels` is empty"),
        ({"class_labels": torch.ones(1, 3)}, r"the shape \(1, 3\), but weights need \(N, 4\)"),
        ({"class_labels": [0, 1], "batch_size": 3}, "2 labels for 3 images"),
        ({"class_labels": [0, 1], "latents": torch.zeros(3, 3, 16, 16)}, "2 labels for 3 images"),
        ({"class_labels": [0, 1], "generator": seeds(0, 1, 2)}, "list of 3"),
        ({"class_labels": 0, "guidance_scale": -1.0}, "`guidance_scale` is -1.0, but must be a number from 0"),
        ({"class_labels": 0, "guidance_scale": float("nan")}, "`guidance_scale` is nan"),
        ({"class_labels": 0, "guidance_scale": "2"}, "`guidance_scale` is '2'"),
        ({"guidance_scale": 2.0}, "no image has a class: give `class_labels`"),
        ({"class_labels": [None], "guidance_scale": 2.0}, "no image has a class"),
    ],
)
def test_labels_that_make_no_sense_are_explained(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(num_inference_steps=2, **arguments)


def test_anchors_and_labels_must_be_as_many(pipe, noise):
    with pytest.raises(ValueError, match="3 labels for 2 anchors"):
        pipe.interpolate(*noise, class_labels=[0, 1, 2])


def test_a_name_that_is_written_like_two_is_refused():
    unet = make_labelled_unet(num_class_embeds=2, class_names=["a b", "a-b"])
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler())
    assert pipe.get_label_ids("a-b") == [1]
    with pytest.raises(ValueError, match="more than one class 'AB'"):
        pipe.get_label_ids("AB")


def test_a_model_without_classes_takes_no_labels(noise):
    for unet in (make_unet(), make_stock_unet()):
        pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler())
        assert pipe.labels == {}
        with pytest.raises(ValueError, match="knows no classes"):
            pipe(class_labels=0)
        with pytest.raises(ValueError, match="no image has a class"):
            pipe(guidance_scale=2.0)


def test_classes_without_names_have_indices():
    pipe = FlowerDDIMPipeline(make_labelled_unet(class_names=None), FlowerDDIMScheduler())
    assert generate(pipe, 1, class_labels=2).isfinite().all()
    with pytest.raises(ValueError, match="classes have no names, only indices from 0 to 2"):
        pipe(class_labels="rose")


def test_a_stock_network_has_no_null_class():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 4}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 8), layers_per_block=1, num_class_embeds=3, **blocks)
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    images = generate(pipe, 2, class_labels=[0, 2])
    assert images.isfinite().all() and torch.equal(generate(pipe, 2, class_labels=[0, 2], guidance_scale=1), images)
    for arguments, message in (
        ({}, "must be told classes"),
        ({"class_labels": [0, None]}, "no null class"),
        ({"class_labels": [0, 1], "guidance_scale": 2.0}, "no null class: leave it at 1"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(pipe, 2, **arguments)
