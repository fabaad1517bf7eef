"""Weights for the network of the book, loaded by Keras into a network that was built from the book's description."""

import numpy as np
import pytest
import torch
from conftest import make_labelled_unet, make_stock_unet, make_unet

from flower_ddim import PRETRAINED, FlowerDDIMPipeline, FlowerDDIMScheduler


pytest.importorskip("keras", reason="Keras is not installed: pip install 'flower-ddim[keras]'")

from flower_ddim.conversion import keras_reference
from flower_ddim.conversion.from_keras import convert_keras
from flower_ddim.conversion.to_keras import export_keras


CHAPTER = {"sample_size": 64, "block_out_channels": (32, 64, 96, 128), "layers_per_block": 2}


@pytest.fixture(scope="module")
def pipe():
    pipe = FlowerDDIMPipeline(make_unet(**CHAPTER, image_std=[0.2, 0.25, 0.3]), FlowerDDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def file(pipe, tmp_path_factory, run_script):
    folder = tmp_path_factory.mktemp("keras")
    pipe.save_pretrained(folder / "model")
    path = folder / "flowers.weights.h5"
    completed = run_script("convert_keras.py", folder / "model", path, "--to", "keras")
    assert "ddm.ema_network.load_weights(" in completed.stdout
    assert "mean=[0.5, 0.5, 0.5] and variance=[0.04" in completed.stdout and "0.0625" in completed.stdout
    return path


def test_the_loop_of_the_chapter_makes_the_pictures_of_the_pipeline(pipe, file):
    """Listing 8-11 with predicted noise, in float64 outside of the network."""
    network = keras_reference.build_network()
    network.load_weights(file)
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    start, end, steps = np.arccos(0.95), np.arccos(0.02), 5
    images = noise.permute(0, 2, 3, 1).numpy()
    for step in range(steps):
        angles = [start + (1 - k / steps) * (end - start) for k in (step, step + 1)]
        variances = np.full((2, 1, 1, 1), np.sin(angles[0]) ** 2, np.float32)
        predicted_noise = np.asarray(network([images.astype(np.float32), variances]).detach())
        predicted = (images - np.sin(angles[0]) * predicted_noise) / np.cos(angles[0])
        images = np.cos(angles[1]) * predicted + np.sin(angles[1]) * predicted_noise
    expected = pipe(latents=noise, num_inference_steps=steps, output_type="latent").images.permute(0, 2, 3, 1)
    assert np.abs(predicted - expected.numpy()).max() < 1e-3 * np.abs(expected.numpy()).max()


def test_what_is_written_comes_back_to_the_bit(pipe, file):
    again = convert_keras(file, image_mean=[0.5] * 3, image_std=[0.2, 0.25, 0.3]).unet.state_dict()
    for name, tensor in pipe.unet.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_unet(), "`block_out_channels` is .8, 16, 24., but the network of the chapter has"),
        (lambda: make_unet(**CHAPTER, in_channels=1, out_channels=1), "`in_channels` is 1"),
        (lambda: make_unet(**CHAPTER, schedule="cosine"), "`schedule` is cosine"),
        (lambda: make_unet(**CHAPTER, norm_num_groups=8), "`norm_num_groups` is 8"),
        (lambda: make_unet(**CHAPTER, attention_head_dim=16), "`attention_head_dim` is 16"),
        (lambda: make_unet(**CHAPTER, patch_size=2), "`patch_size` is 2"),
        (lambda: make_labelled_unet(**CHAPTER), "`num_class_embeds` is 3"),
        (make_stock_unet, "The network is a UNet2DModel"),
    ],
)
def test_other_networks_are_refused(tmp_path, make, message):
    unet = make()
    scheduler = FlowerDDIMScheduler(schedule=unet.config.get("schedule", "offset_cosine"))
    with pytest.raises(ValueError, match=message):
        export_keras(FlowerDDIMPipeline(unet, scheduler), tmp_path / "out.weights.h5")
    assert not list(tmp_path.iterdir())


def test_other_targets_and_files_are_refused(tmp_path, pipe, run_script):
    with pytest.raises(ValueError, match="predicts v_prediction, but that of the chapter predicts noise"):
        export_keras(FlowerDDIMPipeline.from_pretrained(PRETRAINED), tmp_path / "out.weights.h5")
    with pytest.raises(ValueError, match=r"must end in .weights.h5"):
        export_keras(pipe, tmp_path / "out.h5")
    options = [PRETRAINED, tmp_path / "out.weights.h5", "--to", "keras", "--sample_size", 32]
    completed = run_script("convert_keras.py", *options, expect_success=False)
    assert completed.returncode == 2 and "--sample_size is for weights of Keras" in completed.stderr
    assert not list(tmp_path.iterdir())
