"""Our network, schedules and sampling against the reference, built in Keras from its description alone."""

import math

import numpy as np
import pytest
import torch

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler, FlowerUNet2DModel
from flower_ddim.models.unet_flower_ddim import noise_embedding


pytest.importorskip("keras", reason="Keras is not installed: pip install 'flower-ddim[keras]'")

import keras

from flower_ddim.conversion import keras_reference
from flower_ddim.conversion.from_keras import convert_keras


STATISTICS = {"image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.25, 0.3)}
SMALL = {"sample_size": 16, "block_out_channels": (4, 6, 8)}


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


def to_nhwc(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def network():
    network = keras_reference.build_network()
    keras_reference.randomize(network)
    return network


@pytest.fixture(scope="module")
def converted(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / "network.weights.h5"
    network.save_weights(path)
    pipe = convert_keras(path, **STATISTICS)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def noisy_images():
    rng = np.random.default_rng(1)
    return rng.normal(size=(4, 64, 64, 3)).astype(np.float32)


def test_the_reference_has_as_many_weights_as_ours(network):
    assert sum(math.prod(w.shape) for w in network.trainable_weights) == 1_950_627
    assert network.count_params() == 1_953_507


@torch.no_grad()
def test_forward_pass_given_the_same_noise_embedding(network, converted, noisy_images):
    reference = keras_reference.build_network(embedding_as_input=True)
    reference.set_weights(network.get_weights())
    embedding = noise_embedding(torch.linspace(0, 1, 4))
    theirs = reference([noisy_images, embedding.numpy().reshape(4, 1, 1, 32)], training=False).numpy()
    ours = converted.unet.predict(torch.from_numpy(noisy_images).permute(0, 3, 1, 2), embedding)
    assert 0.3 < np.abs(theirs).mean() < 3
    assert relative_error(to_nhwc(ours), theirs) <= 1e-5


@torch.no_grad()
def test_forward_pass_end_to_end(network, converted, noisy_images):
    """From the timestep of ours and the noise power of theirs, each with its own schedule and embedding."""
    times = np.array([0.0, 0.31, 0.77, 1.0])
    angles = math.acos(0.95) + times * (math.acos(0.02) - math.acos(0.95))
    theirs = network([noisy_images, (np.sin(angles) ** 2).astype(np.float32).reshape(4, 1, 1, 1)], training=False)
    ours = converted.unet(torch.from_numpy(noisy_images).permute(0, 3, 1, 2), torch.from_numpy(1000 * times - 1))
    assert relative_error(to_nhwc(ours.sample), theirs.numpy()) <= 1e-3


def keras_offset_cosine(diffusion_times):
    """The reference's schedule, in Keras operations."""
    start, end = math.acos(0.95), math.acos(0.02)
    angles = start + keras.ops.convert_to_tensor(diffusion_times) * (end - start)
    return keras.ops.sin(angles), keras.ops.cos(angles)


def test_schedules():
    times = np.linspace(0, 1, 101, dtype=np.float32)
    noise, signal = keras_offset_cosine(times)
    ours_signal, ours_noise = FlowerDDIMScheduler().schedule.rates(torch.from_numpy(times))
    assert relative_error(ours_signal, signal) <= 1e-6 and relative_error(ours_noise, noise) <= 1e-6

    angles = keras.ops.convert_to_tensor(times) * math.pi / 2
    ours_signal, ours_noise = FlowerDDIMScheduler(schedule="cosine").schedule.rates(torch.from_numpy(times))
    assert relative_error(ours_signal, keras.ops.cos(angles)) <= 1e-6
    assert relative_error(ours_noise, keras.ops.sin(angles)) <= 1e-6

    alphas_cumprod = np.cumprod(1 - (0.0001 + np.arange(1000) / 999 * (0.02 - 0.0001)))
    grid = torch.arange(1, 1001, dtype=torch.float64) / 1000
    ours_signal, ours_noise = FlowerDDIMScheduler(schedule="linear").schedule.rates(grid)
    assert relative_error(ours_signal, np.sqrt(alphas_cumprod)) <= 1e-6
    assert relative_error(ours_noise, np.sqrt(1 - alphas_cumprod)) <= 1e-6


@torch.no_grad()
def test_twenty_steps_of_sampling(network, converted, noisy_images):
    """The reference's loop: predict, take the noise out, put less of it back; the last prediction is the image."""
    sample = keras.ops.convert_to_tensor(noisy_images)
    for step in range(20):
        times = np.full((4, 1, 1, 1), 1 - step / 20, dtype=np.float32)
        noise_rates, signal_rates = keras_offset_cosine(times)
        noises = network([sample, noise_rates**2], training=False)
        images = (sample - noise_rates * noises) / signal_rates
        next_noise_rates, next_signal_rates = keras_offset_cosine(times - 1 / 20)
        sample = next_signal_rates * images + next_noise_rates * noises
    ours = converted(latents=torch.from_numpy(noisy_images).permute(0, 3, 1, 2), output_type="latent").images
    assert relative_error(to_nhwc(ours), images.numpy()) <= 1e-3


def small_network():
    network = keras_reference.build_network(image_size=16, widths=(4, 6, 8))
    keras_reference.randomize(network)
    return network


class DiffusionModel(keras.Model):
    """As in the reference: the network, its moving average and the statistics of the images in one model."""

    def __init__(self, network, ema_network):
        super().__init__()
        self.normalizer = keras.layers.Normalization()
        self.network, self.ema_network = network, ema_network
        self.built = True


@torch.no_grad()
def assert_same_function(pipe, network):
    images = np.random.default_rng(2).normal(size=(2, 16, 16, 3)).astype(np.float32)
    theirs = network([images, np.full((2, 1, 1, 1), 0.0975, np.float32)], training=False).numpy()
    ours = pipe.unet(torch.from_numpy(images).permute(0, 3, 1, 2), -1).sample
    assert relative_error(to_nhwc(ours), theirs) <= 1e-3


def test_the_whole_diffusion_model_gives_its_average_and_its_statistics(tmp_path):
    network, ema_network = small_network(), small_network()
    keras_reference.randomize(ema_network, seed=1)
    model = DiffusionModel(network, ema_network)
    images = np.random.default_rng(0).uniform(size=(64, 8, 8, 3)) * [1.0, 0.5, 0.2]
    model.normalizer.adapt(images)
    model.save_weights(tmp_path / "model.weights.h5")
    pipe = convert_keras(tmp_path / "model.weights.h5", **SMALL)
    assert_same_function(pipe, ema_network)
    assert pipe.unet.config.image_mean == pytest.approx(images.mean((0, 1, 2)), rel=1e-4)
    assert pipe.unet.config.image_std == pytest.approx(images.std((0, 1, 2)), rel=1e-4)


@pytest.mark.parametrize("extension", [".weights.h5", ".keras"])
def test_the_script_writes_a_loadable_pipeline(run_script, tmp_path, extension):
    network = small_network()
    file = tmp_path / f"network{extension}"
    network.save_weights(file) if extension == ".weights.h5" else network.save(file)
    sizes = ["--sample_size", 16, "--block_out_channels", 4, 6, 8]
    statistics = ["--image_mean", 0.4, 0.5, 0.6, "--image_std", 0.2, 0.25, 0.3]
    completed = run_script("convert_keras.py", file, tmp_path / "pipeline", *statistics, *sizes)
    assert str(tmp_path / "pipeline") in completed.stdout
    pipe = FlowerDDIMPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipe.unet.config.image_std == [0.2, 0.25, 0.3]
    assert_same_function(pipe, network)


def test_everything_that_does_not_fit_is_listed(tmp_path):
    network = keras_reference.build_network(image_size=16, widths=(4, 6, 10))
    network = keras.Model(network.inputs, keras.layers.PReLU(name="odd")(network.output))
    network.save_weights(tmp_path / "odd.weights.h5")
    with pytest.raises(ValueError) as error:
        convert_keras(tmp_path / "odd.weights.h5", **STATISTICS, **SMALL)
    message = str(error.value)
    for name in ("mid_blocks.0.conv1.weight (8, 6, 3, 3)", "mid_blocks.1.norm.running_mean (8,)", "layers/p_re_lu"):
        assert name in message
    assert "(10, 6, 3, 3)" in message and "down_blocks" not in message


def test_a_deeper_or_shallower_file_is_refused(tmp_path):
    small_network().save_weights(tmp_path / "n.weights.h5")
    for layers_per_block, message in ((1, "matches nothing"), (3, "was met by nothing")):
        with pytest.raises(ValueError, match=message):
            convert_keras(tmp_path / "n.weights.h5", **STATISTICS, **SMALL, layers_per_block=layers_per_block)


def test_unusable_files_are_explained_and_nothing_is_written(run_script, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        convert_keras(tmp_path / "missing.keras", **STATISTICS)
    (tmp_path / "text.weights.h5").write_text("no weights")
    with pytest.raises(ValueError, match="is not a Keras file"):
        convert_keras(tmp_path / "text.weights.h5", **STATISTICS)
    small_network().save_weights(tmp_path / "n.weights.h5")
    with pytest.raises(ValueError, match="image_mean"):
        convert_keras(tmp_path / "n.weights.h5", **SMALL)
    completed = run_script(
        "convert_keras.py",
        tmp_path / "n.weights.h5",
        tmp_path / "out",
        *["--image_mean", 0.5, 0.5, 0.5],
        *["--image_std", 0.5, 0.5, 0.5],
        expect_success=False,
    )  # the default architecture
    assert completed.returncode == 1 and "does not fit the network" in completed.stderr
    assert "Traceback" not in completed.stderr and not (tmp_path / "out").exists()


def test_the_default_architecture_is_the_reference(converted):
    assert isinstance(converted.unet, FlowerUNet2DModel)
    assert converted.unet.config.sample_size == 64
