import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_stock_unet, make_unet, seeds
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


def test_sampling_is_equation_12_step_by_step(pipe, noise):
    """The whole loop against the formula written out, with the rates of the offset cosine schedule."""
    start, end = math.acos(0.95), math.acos(0.02)
    sample = noise
    with torch.no_grad():
        for i in range(7):
            now, later = (start + (7 - j) / 7 * (end - start) for j in (i, i + 1))
            epsilon = pipe.unet(sample, 1000 * (7 - i) / 7 - 1).sample
            image = (sample - math.sin(now) * epsilon) / math.cos(now)
            sample = math.cos(later) * image + math.sin(later) * epsilon
    expected = (image * 0.5 + 0.5).clamp(0, 1)
    images = pipe(latents=noise, num_inference_steps=7, output_type="pt").images
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


def test_output_types_hold_the_same_images(pipe, noise):
    pt, np_, pil, latent = (
        pipe(latents=noise, num_inference_steps=3, output_type=t).images for t in ("pt", "np", "pil", "latent")
    )
    assert pt.shape == (2, 3, 16, 16) and pt.min() >= 0 and pt.max() <= 1
    np.testing.assert_array_equal(np_, pt.permute(0, 2, 3, 1).numpy())
    for image, array in zip(pil, np_, strict=True):
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), (array * 255).round())
    torch.testing.assert_close((latent * 0.5 + 0.5).clamp(0, 1), pt)


def test_tuple_output(pipe, noise):
    images = pipe(latents=noise, num_inference_steps=2, output_type="pt").images
    (tuple_images,) = pipe(latents=noise, num_inference_steps=2, output_type="pt", return_dict=False)
    assert torch.equal(images, tuple_images)


def test_images_are_destandardised_with_the_statistics_of_the_model(noise):
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    pipe = FlowerDDIMPipeline(make_unet(image_mean=mean, image_std=std), FlowerDDIMScheduler())
    latent, images = (pipe(latents=noise, num_inference_steps=2, output_type=t).images for t in ("latent", "pt"))
    expected = latent * torch.tensor(std).reshape(1, 3, 1, 1) + torch.tensor(mean).reshape(1, 3, 1, 1)
    torch.testing.assert_close(images, expected.clamp(0, 1))


def test_grey_models_make_grey_images():
    pipe = FlowerDDIMPipeline(make_unet(in_channels=1, out_channels=1), FlowerDDIMScheduler())
    assert pipe(num_inference_steps=2).images[0].mode == "L"
    assert pipe(num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 1)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_same_seed_same_images(pipe, eta):
    first, again, other = (
        pipe(generator=seeds(s)[0], batch_size=2, num_inference_steps=3, eta=eta, output_type="pt").images
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_images_do_not_depend_on_their_batch(pipe, eta):
    kwargs = {"num_inference_steps": 5, "eta": eta, "output_type": "pt"}
    together = pipe(batch_size=8, generator=seeds(*range(8)), **kwargs).images
    for i in range(8):
        alone = pipe(generator=seeds(i), **kwargs).images
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-4)


def test_training_mode_makes_no_difference_and_comes_back(pipe, noise):
    expected = pipe(latents=noise, num_inference_steps=3, output_type="pt").images
    pipe.unet.train()
    statistics = pipe.unet.mid_blocks[0].norm.running_mean.clone()
    assert torch.equal(pipe(latents=noise, num_inference_steps=3, output_type="pt").images, expected)
    assert pipe.unet.training and torch.equal(pipe.unet.mid_blocks[0].norm.running_mean, statistics)


def test_a_failing_callback_leaves_the_mode_as_it_was(pipe):
    def fail(*_):
        raise KeyboardInterrupt

    pipe.unet.train()
    with pytest.raises(KeyboardInterrupt):
        pipe(num_inference_steps=2, callback_on_step_end=fail)
    assert pipe.unet.training


def test_callback_sees_every_step_and_can_replace_the_latents(pipe):
    seen = []

    def callback(pipeline, i, timestep, tensors):
        seen.append((i, timestep.item(), tensors["latents"].shape))
        return {"latents": torch.zeros_like(tensors["latents"])}

    images = pipe(num_inference_steps=4, callback_on_step_end=callback, output_type="pt").images
    assert seen == [(i, t, (1, 3, 16, 16)) for i, t in enumerate([999.0, 749.0, 499.0, 249.0])]
    assert torch.equal(images, torch.full_like(images, 0.5))  # of zero latents
    assert pipe.num_timesteps == 4


def test_a_callback_that_returns_nothing_changes_nothing(pipe, noise):
    expected = pipe(latents=noise, num_inference_steps=3, output_type="latent").images
    images = pipe(
        latents=noise, num_inference_steps=3, output_type="latent", callback_on_step_end=lambda *_: None
    ).images
    assert torch.equal(images, expected)


def test_a_callback_can_stop_after_a_step_and_the_next_call_starts_anew(pipe, noise):
    seen = []

    def stop_after_two(pipeline, i, timestep, tensors):
        seen.append(tensors["latents"])
        pipeline._interrupt = i == 1
        return tensors

    pipe.unet.train()
    options = {"latents": noise, "num_inference_steps": 4, "output_type": "latent"}
    images = pipe(callback_on_step_end=stop_after_two, **options).images
    assert len(seen) == 2 and torch.equal(images, seen[-1]) and pipe.unet.training
    assert pipe._interrupt
    pipe(callback_on_step_end=lambda *arguments: seen.append(arguments), **options)
    assert len(seen) == 6 and not pipe._interrupt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_from_another_shares_its_parts_as_they_are(pipe, noise, tmp_path, dtype):
    pipe.save_pretrained(tmp_path)
    pipe = FlowerDDIMPipeline.from_pretrained(tmp_path, dtype=dtype)
    dtypes = {tensor.dtype for tensor in pipe.unet.state_dict().values()}
    other = FlowerDDIMPipeline.from_pipe(pipe)
    assert other.unet is pipe.unet and other.scheduler is pipe.scheduler and other.name_or_path == str(tmp_path)
    assert {tensor.dtype for tensor in other.unet.state_dict().values()} == dtypes
    solver = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    assert FlowerDDIMPipeline.from_pipe(pipe, scheduler=solver).scheduler is solver
    stock = make_stock_unet()
    assert FlowerDDIMPipeline.from_pipe(pipe, unet=stock).unet is stock
    assert FlowerDDIMPipeline.from_pipe(pipe, dtype=torch.float64).unet.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_pipelines_load_in_every_precision(pipe, noise, tmp_path, dtype):
    expected = pipe(latents=noise, output_type="pt").images
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin")) and len(list(tmp_path.rglob("*.safetensors"))) == 1
    loaded = FlowerDDIMPipeline.from_pretrained(tmp_path, dtype=dtype)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.unet.dtype == dtype
    images = loaded(latents=noise, output_type="pt").images
    assert images.dtype == torch.float32
    bound = 1e-4 if dtype == torch.float32 else 0.1
    assert (images - expected).abs().mean() < bound


def test_the_pipeline_class_is_the_only_import_that_a_fresh_process_needs(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    code = (
        "import sys; from flower_ddim import FlowerDDIMPipeline; "
        "pipe = FlowerDDIMPipeline.from_pretrained(sys.argv[1]); print(pipe(num_inference_steps=2).images[0].size)"
    )
    process = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert process.stdout.strip() == "(16, 16)", process.stderr


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, flower_ddim; print([m for m in ('torch', 'diffusers', 'numpy', 'PIL') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "stock",
    [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler],
)
def test_stock_schedulers_drop_in(pipe, stock, tmp_path):
    pipe.scheduler = stock.from_config(pipe.scheduler.config)
    kwargs = {"batch_size": 2, "num_inference_steps": 5, "output_type": "pt"}
    images = pipe(generator=seeds(0, 1), **kwargs).images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()
    pipe.save_pretrained(tmp_path)
    loaded = FlowerDDIMPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is stock
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(loaded(generator=seeds(0, 1), **kwargs).images, images, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": -3}, "num_inference_steps"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.0}, "batch_size"),
        (
            {"batch_size": "a rose"},
            "`batch_size` is 'a rose', but must be an integer >= 1: the model takes no prompt.",
        ),
        ({"eta": -0.1}, "eta"),
        ({"eta": 1.5}, "eta"),
        (
            {"batch_size": ["a rose"]},
            "`batch_size` is ['a rose'], but must be an integer >= 1: the model takes no prompt.",
        ),
        ({"eta": "0"}, "`eta` is '0', but must be a number in [0, 1]."),
        ({"eta": None}, "`eta` is None, but must be a number in [0, 1]."),
        ({"output_type": "jpeg"}, "pil, np, pt, latent"),
        ({"latents": torch.zeros(3, 16, 16)}, "(3, 16, 16)"),
        ({"latents": torch.zeros(1, 3, 32, 32)}, "must have (1, 3, 16, 16)"),
        ({"latents": torch.zeros(2, 3, 16, 16), "batch_size": 3}, "must have (3, 3, 16, 16)"),
        ({"latents": torch.zeros(1, 3, 16, 16, dtype=torch.int64)}, "int64"),
        ({"latents": torch.full((1, 3, 16, 16), torch.nan)}, "not finite: draw it with `torch.randn`"),
        ({"generator": seeds(0, 1, 2), "batch_size": 2}, "list of 3"),
        ({"generator": 42}, "give `torch.Generator().manual_seed(42)`"),
        ({"generator": [1, 2], "batch_size": 2}, "give `torch.Generator().manual_seed(1)`"),
        ({"latents": [[0.0]]}, "`latents` is a list, but must be a tensor: draw it with `torch.randn`."),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "latents"),
        ({"callback_on_step_end_tensor_inputs": [["latents"]]}, "only ['latents'] can be asked for"),
        ({"callback_on_step_end_tensor_inputs": None}, "is None, but must be a list: ['latents'], or [] for none."),
        ({"callback_on_step_end_tensor_inputs": "latents"}, "is 'latents', but must be a list"),
    ],
)
def test_bad_input_is_explained(pipe, arguments, message):
    with pytest.raises(ValueError) as error:
        pipe(**arguments)
    assert message in str(error.value)


def test_eta_needs_a_scheduler_that_has_it(pipe):
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="EulerDiscreteScheduler has no such setting"):
        pipe(eta=0.5)


@pytest.mark.parametrize("scheduler", [FlowerDDIMScheduler(schedule="linear"), DDIMScheduler()], ids=["ours", "stock"])
def test_unet_and_scheduler_must_agree_on_the_schedule(pipe, scheduler):
    pipe.scheduler = scheduler
    with pytest.raises(ValueError, match="another noise schedule, .*offset_cosine"):
        pipe()


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
@pytest.mark.parametrize("stock", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_what_is_not_finite_never_becomes_pictures(pipe, stock, output_type):
    """With more steps than timesteps, some solvers divide by zero."""
    pipe.scheduler = stock.from_config(FlowerDDIMScheduler(num_train_timesteps=20).config)
    pipe.unet = make_unet(num_train_timesteps=20)
    assert len(pipe(num_inference_steps=20, output_type=output_type).images) == 1
    with pytest.raises(ValueError, match=f"{stock.__name__} with 21 steps led to numbers that are not finite: take"):
        pipe(num_inference_steps=21, output_type=output_type)


def test_neither_pictures_nor_noise_come_of_a_broken_network(pipe, noise):
    pipe.unet.conv_out.bias.data.fill_(torch.nan)
    for make in (pipe, lambda: pipe.interpolate(*noise), lambda: pipe.invert(torch.zeros(3, 16, 16))):
        with pytest.raises(ValueError, match="FlowerDDIMScheduler with 20 steps led to numbers that are not finite"):
            make()


WITHOUT_SIGNAL = [
    {"schedule": "cosine"},
    {"schedule": "offset_cosine", "min_signal_rate": 1e-4},
    {"schedule": "linear", "num_train_timesteps": 2000},
]


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("config", WITHOUT_SIGNAL)
def test_noise_alone_tells_no_image(config, own, prediction_type, noise):
    """Where the last timestep has no signal, predicted noise is refused, and predicted images and velocities are not."""
    scheduler = FlowerDDIMScheduler(prediction_type=prediction_type, **config)
    assert scheduler.add_noise(noise, noise, 999).isfinite().all()
    scheduler = scheduler if own else DDIMScheduler.from_config(scheduler.config)
    pipe = FlowerDDIMPipeline(make_unet(**config), scheduler)
    pipe.set_progress_bar_config(disable=True)
    ways = [lambda: pipe(num_inference_steps=2), lambda: next(pipe.denoise(noise)), lambda: pipe.interpolate(*noise)]
    for way in [*ways, lambda: pipe.invert(torch.zeros(3, 16, 16))] if own else ways:
        if prediction_type == "epsilon":
            with pytest.raises(ValueError, match='`prediction_type="v_prediction"`, or another schedule'):
                way()
        else:
            way()


def test_folders_that_hold_no_pipeline_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        FlowerDDIMPipeline.from_pretrained(tmp_path / "missing")
    with pytest.raises(OSError, match="save_pretrained"):
        FlowerDDIMPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("{ broken")
    with pytest.raises(OSError, match="not a valid JSON"):
        FlowerDDIMPipeline.from_pretrained(tmp_path)


def test_pipelines_of_other_parts_are_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    foreign = {"_class_name": StableDiffusionPipeline.__name__, "vae": ["diffusers", "AutoencoderKL"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | foreign))
    with pytest.raises(ValueError, match="StableDiffusionPipeline of scheduler, unet, vae"):
        FlowerDDIMPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_missing_parts_are_reported(pipe, tmp_path, part):
    pipe.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / part)
    with pytest.raises(OSError, match="no file named|No U-Net"):
        FlowerDDIMPipeline.from_pretrained(tmp_path)
