"""The fast ways give the numbers of the slow one: compiled, frozen, and in bfloat16; how fast they are is measured elsewhere."""

import numpy as np
import pytest
import torch
from conftest import make_unet
from PIL import Image
from training_runs import small_config

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.sampling.compilation import compile_unet
from flower_ddim.sampling.generate import generate_folder
from flower_ddim.training.trainer import Trainer


# bfloat16 has 8 bits of precision, so a number is off by up to 0.4 %; measured on the shipped model: 0.5 % for a prediction.
BFLOAT16_ERROR = 0.01


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a small model, which loads as users' models do: in channels_last."""
    folder = tmp_path_factory.mktemp("model")
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def compiled(model):
    unet = FlowerDDIMPipeline.from_pretrained(model).unet
    compile_unet(unet)
    return unet


def relative_error(found, expected):
    """Root mean square of the differences, against that of what is expected."""
    return ((found.float() - expected).square().mean() / expected.square().mean()).sqrt().item()


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_compiled_network_predicts_what_the_eager_one_does(model, compiled, noise, batch_size):
    """Also at another size of batch, for which it is compiled anew."""
    unet = FlowerDDIMPipeline.from_pretrained(model).unet
    for timestep in (3, torch.tensor(700.5)):
        expected = unet(noise[:batch_size], timestep).sample
        found = compiled(noise[:batch_size], timestep).sample
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_pipeline_generates_the_same_images(model, compiled, noise):
    options = {"latents": noise, "num_inference_steps": 4, "output_type": "pt"}
    expected = FlowerDDIMPipeline.from_pretrained(model)(**options).images
    pipe = FlowerDDIMPipeline(compiled, FlowerDDIMScheduler())
    torch.testing.assert_close(
        pipe(**options).images, expected, rtol=0, atol=1e-4
    )  # the last step divides by what is small


@torch.no_grad()
@pytest.mark.parametrize("compile", [False, True])
def test_bfloat16_stays_within_its_precision(model, noise, compile):
    expected = FlowerDDIMPipeline.from_pretrained(model).unet(noise, 700).sample
    unet = FlowerDDIMPipeline.from_pretrained(model, dtype=torch.bfloat16).unet
    if compile:
        compile_unet(unet)
    error = relative_error(unet(noise.bfloat16(), 700).sample, expected)
    assert 1e-5 < error < BFLOAT16_ERROR


def three_steps(folder, **options):
    """Losses of three training steps, and the average after them."""
    trainer = Trainer(small_config(folder, max_train_steps=3, ema_max_decay=0.5, **options))
    trainer.learner.unet.train()
    losses = torch.stack([trainer.learner.training_step()[0] for _ in range(3)])
    weights = {name: w for name, w in trainer.learner.ema.averaged.state_dict().items() if w.is_floating_point()}
    return losses, torch.cat([w.flatten() for w in weights.values()])


@pytest.mark.slow
def test_fast_training_steps_are_the_slow_ones(tmp_path):
    """Compiled in float32 but for rounding; in bfloat16 within its precision."""
    expected, expected_average = three_steps(tmp_path / "eager")
    losses, average = three_steps(tmp_path / "compiled", compile=True)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    # AdamW's first steps are as long for the smallest gradient as for the largest, so rounding may turn one around.
    assert relative_error(average, expected_average) < 1e-3
    losses, average = three_steps(tmp_path / "bfloat16", compile=True, mixed_precision="bf16")
    assert not torch.equal(losses, expected)
    torch.testing.assert_close(losses, expected, rtol=BFLOAT16_ERROR, atol=0)


def test_compiled_folders_of_images_are_the_same_and_the_last_batch_is_filled_up(model, tmp_path):
    options = {"num_images": 3, "num_inference_steps": 3, "batch_size": 2}
    expected = generate_folder(model, tmp_path / "eager", **options)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = generate_folder(model, tmp_path / "compiled", compile=True, **options)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # not another one for the last batch
    assert sorted(path.name for path in found.glob("*.png")) == [f"{i:06}.png" for i in range(3)]
    for path in found.glob("*.png"):
        one, other = (np.asarray(Image.open(p)).astype(int) for p in (path, expected / path.name))
        assert abs(one - other).max() <= 1


def test_images_in_another_dtype_are_not_mixed(model, tmp_path):
    generate_folder(model, tmp_path, 1, 2, dtype="bfloat16")
    with pytest.raises(ValueError, match="bfloat16.*name another folder"):
        generate_folder(model, tmp_path, 2, 2)


@pytest.mark.slow
def test_generate_compiles_and_computes_in_bfloat16(model, run_script, tmp_path):
    options = ["--model", model, "--num_inference_steps", 3, "--num_images", 2, "--cell_size", 16]
    run_script("generate.py", *options, "--output", tmp_path / "slow.png")
    completed = run_script(
        "generate.py", *options, "--compile", "--dtype", "bfloat16", "--output", tmp_path / "fast.png"
    )
    assert "Compiling took" in completed.stdout
    slow, fast = (np.asarray(Image.open(tmp_path / name)).astype(float) for name in ("slow.png", "fast.png"))
    assert 0 < abs(slow - fast).mean() < 0.02 * 255


def test_compiling_without_a_compiler_is_refused(unet, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no no-such-compiler here: install it, or leave `--compile` out"):
        compile_unet(unet)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_for_upsampling_is_sound_and_has_the_gradient_of_what_it_stands_for(dtype):
    features = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    features = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(torch.ops.flower_ddim.upsample.default, (features,))
    expected = torch.nn.functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
    found = torch.ops.flower_ddim.upsample(features)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    gradients = [torch.autograd.grad((output * weights).sum(), features)[0] for output in (found, expected)]
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0.1
