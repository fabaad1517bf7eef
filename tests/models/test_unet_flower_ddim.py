import functools
import json
import math

import pytest
import torch
import torch.utils.checkpoint
from conftest import make_unet

from flower_ddim import FlowerUNet2DModel
from flower_ddim.models.unet_flower_ddim import noise_embedding


def test_the_reference_architecture_has_the_known_number_of_parameters():
    unet = FlowerUNet2DModel()
    assert sum(p.numel() for p in unet.parameters()) == 1_950_627
    statistics = [b for b in unet.buffers() if b.is_floating_point()]
    assert 1_950_627 + sum(b.numel() for b in statistics) == 1_953_507


def test_an_untrained_network_predicts_zero_noise_and_has_glorot_kernels():
    torch.manual_seed(0)
    unet = FlowerUNet2DModel(sample_size=16)
    assert torch.count_nonzero(unet(torch.randn(1, 3, 16, 16), 500).sample) == 0
    kernel = unet.mid_blocks[1].conv1.weight
    assert kernel.abs().max().item() == pytest.approx(math.sqrt(6 / (2 * 128 * 9)), rel=1e-3)
    assert all(torch.count_nonzero(m.bias) == 0 for m in unet.modules() if isinstance(m, torch.nn.Conv2d))


def test_noise_embedding_is_sines_then_cosines_of_geometric_frequencies():
    power = torch.tensor([0.0, 0.25, 0.9], dtype=torch.float64)
    embedding = noise_embedding(power, 32)
    assert embedding.shape == (3, 32)
    for row, v in zip(embedding, power.tolist(), strict=True):
        angles = [2 * math.pi * 1000 ** (k / 15) * v for k in range(16)]
        assert row.tolist() == pytest.approx([math.sin(a) for a in angles] + [math.cos(a) for a in angles], abs=1e-9)


@pytest.mark.parametrize("form", [int, torch.tensor, lambda t: torch.tensor([t]), lambda t: torch.tensor([t, t])])
def test_timesteps_in_every_form_mean_the_same(unet, noise, form):
    torch.testing.assert_close(unet(noise, form(500)).sample, unet(noise, 500.0).sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64])
def test_timesteps_of_any_dtype_are_not_cast_below_float32(unet, noise, dtype):
    """500 is exact in all of these dtypes; the highest frequency would show a cast of the diffusion time as another image."""
    expected = unet(noise, 500.0).sample
    prediction = unet(noise, torch.tensor(500, dtype=dtype)).sample
    torch.testing.assert_close(prediction, expected, rtol=0, atol=1e-3)
    assert not torch.allclose(unet(noise, 500.5).sample, expected, rtol=0, atol=1e-3)


def test_fractional_timesteps_count(unet, noise):
    assert not torch.equal(unet(noise, 500.0).sample, unet(noise, 500.25).sample)


def test_every_image_has_its_own_timestep(unet, noise):
    together = unet(noise, torch.tensor([10.0, 900.5])).sample
    for i, timestep in enumerate((10.0, 900.5)):
        torch.testing.assert_close(together[i : i + 1], unet(noise[i : i + 1], timestep).sample)


def test_noise_power_is_that_of_the_configured_schedule():
    for timestep, number in ((-1, 1), (torch.tensor([-1, -1]), 2)):
        assert make_unet().noise_power(timestep, 2).tolist() == pytest.approx([0.0975] * number, abs=1e-6)
    assert make_unet(schedule="cosine").noise_power(499, 1).item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_still_get_an_exact_embedding(tmp_path, noise, dtype):
    unet = make_unet()
    unet.save_pretrained(tmp_path)
    half = FlowerUNet2DModel.from_pretrained(tmp_path, dtype=dtype)
    assert half.conv_in.weight.dtype == dtype
    assert half.mid_blocks[0].norm.running_mean.dtype == torch.float32
    assert half.noise_power(123.456, 1).dtype == torch.float64
    assert torch.equal(half.noise_power(123.456, 1), unet.noise_power(123.456, 1))
    prediction, expected = half(noise.to(dtype), 700).sample, unet(noise, 700).sample
    assert prediction.dtype == dtype
    assert (prediction.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_saved_as_safetensors_and_loaded_in_channels_last(unet, noise, tmp_path):
    unet.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded, info = FlowerUNet2DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not loaded.training
    kernel = loaded.mid_blocks[0].conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last) and not kernel.is_contiguous()
    for name, tensor in unet.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    torch.testing.assert_close(loaded(noise, 3).sample, unet(noise, 3).sample)


def test_saving_again_from_channels_last_keeps_the_weights(unet, tmp_path):
    unet.save_pretrained(tmp_path / "a")
    FlowerUNet2DModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    files = [tmp_path / d / "diffusion_pytorch_model.safetensors" for d in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_other_sizes_and_channels():
    unet = make_unet(sample_size=(16, 32), in_channels=1, out_channels=1, image_mean=0.4, image_std=(0.2,))
    assert unet(torch.randn(3, 1, 16, 32), 5).sample.shape == (3, 1, 16, 32)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"sample_size": 60}, "multiple of 8"),
        ({"sample_size": (64, 4)}, "multiple of 8"),
        ({"sample_size": 0}, "`sample_size` is 0, but must hold whole numbers from 1"),
        ({"noise_embedding_dim": 31}, "even"),
        ({"schedule": "squared"}, "offset_cosine"),
        ({"max_signal_rate": 1.5}, "max_signal_rate"),
        ({"image_mean": (0.5, 0.5)}, "3 channels"),
        ({"layers_per_block": 0}, "layers_per_block"),
        ({"block_out_channels": ()}, "at least one width"),
        ({"block_out_channels": (0, 64)}, r"`block_out_channels` is \(0, 64\)"),
        ({"in_channels": 0}, "`in_channels` is 0"),
        ({"patch_size": 3}, "`patch_size` 3, so it must be a multiple of 24"),
        ({"patch_size": 0}, "`patch_size` is 0"),
        ({"norm_num_groups": 7}, "`norm_num_groups` is 7, but must divide 64"),
        ({"norm_num_groups": 0}, "`norm_num_groups` is 0"),
        ({"attention_head_dim": 48}, "`attention_head_dim` is 48, but must divide 128"),
    ],
)
def test_impossible_configurations_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        FlowerUNet2DModel(**config)


def test_a_network_of_patches_meets_every_patch_as_one_pixel(tmp_path):
    unet = make_unet(sample_size=16, patch_size=2, norm_num_groups=4, attention_head_dim=4)
    assert unet.side_factor == 8 and unet.conv_in.in_channels == unet.conv_out.out_channels == 12
    met = []
    unet.conv_in.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    unet.conv_out.register_forward_hook(lambda *_: met[0])  # an output that tells where each pixel went
    sample = torch.randn(2, 3, 16, 16)
    assert torch.equal(unet(sample, 5).sample, sample)
    corners = sample[:, 0, 2:4, 6:8]  # of the first channel
    assert torch.equal(met[0][:, :4, 1, 3], corners.flatten(1))
    unet.save_pretrained(tmp_path)
    torch.testing.assert_close(FlowerUNet2DModel.from_pretrained(tmp_path).state_dict(), unet.state_dict())


def test_attention_changes_nothing_at_first():
    block = FlowerUNet2DModel(sample_size=4, block_out_channels=(8,), attention_head_dim=4).mid_blocks[1]
    hidden_states = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(hidden_states), hidden_states) and block.to_qkv.weight.std() > 0


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 60), (1, 1, 64, 64), (3, 64, 64)])
def test_samples_that_do_not_fit_are_refused_in_one_sentence(shape):
    unet = make_unet(sample_size=64, block_out_channels=(4, 4, 4, 4))
    with pytest.raises(
        ValueError, match=r"\(B, 3, height, width\); `sample` height and width must be multiples of 8\."
    ):
        unet(torch.zeros(shape), 0)
    assert unet(torch.zeros(1, 3, 40, 72), 0).sample.shape == (1, 3, 40, 72)


def test_wrong_calls_are_refused(unet, noise):
    for timestep in (torch.zeros(3), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match="timestep"):
            unet(noise, timestep)
    with pytest.raises(ValueError, match="knows no classes"):
        unet(noise, 5, class_labels=torch.zeros(2))


@pytest.fixture
def saved(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("keep", [0, 5, 1000, 20_000])
def test_damaged_weights_are_reported(saved, keep):
    file = saved / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(OSError, match="download or save the model again"):
        FlowerUNet2DModel.from_pretrained(saved)


@pytest.mark.parametrize("change", [{"block_out_channels": [8, 16, 32]}, {"layers_per_block": 2}])
def test_weights_of_another_architecture_are_reported(saved, change):
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match="are not those of its config.json: .*(down_blocks|mid_blocks)"):
        FlowerUNet2DModel.from_pretrained(saved)


def test_pickled_weights_are_not_read_unasked(unet, tmp_path):
    unet.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        FlowerUNet2DModel.from_pretrained(tmp_path)


def test_sampling_in_training_mode_is_warned_of(unet, noise, recwarn):
    """As diffusers' own pipelines would do it."""
    unet.eval()
    with torch.no_grad():
        unet(noise, 5)
    unet.train()(noise, 5)
    assert not recwarn.list
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match="training mode ruins the U-Net's statistics: call `unet.eval"),
    ):
        unet(noise, 5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("function", [None, torch.utils.checkpoint.checkpoint])
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(noise, training, function):
    """With diffusers' own way to compute again, and with one that runs without gradients first (`use_reentrant`)."""
    results = []
    for checkpointing in (False, True):
        unet = make_unet(layers_per_block=2).train(training)
        assert unet._supports_gradient_checkpointing
        if checkpointing:
            reentrant = functools.partial(function, use_reentrant=True) if function else None
            unet.enable_gradient_checkpointing(reentrant)
        for _ in range(2):  # gradients of two batches add up
            unet(noise.clone().requires_grad_(), 300).sample.square().mean().backward()
        results.append((dict(unet.named_buffers()), {name: p.grad for name, p in unet.named_parameters()}))
        assert unet.is_gradient_checkpointing == checkpointing
    unet.disable_gradient_checkpointing()
    assert not unet.is_gradient_checkpointing
    (buffers, gradients), (same_buffers, same_gradients) = results
    torch.testing.assert_close(same_buffers, buffers, rtol=0, atol=0)
    torch.testing.assert_close(same_gradients, gradients, rtol=1e-5, atol=1e-6)  # they may add up in another order


def bytes_kept(unet, sample):
    """Bytes that a forward pass keeps for the gradients, the weights apart."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        unet(sample, 300)
    weights = {p.data_ptr() for p in unet.parameters()}
    return sum(t.nbytes for pointer, t in kept.items() if pointer not in weights)


def test_gradient_checkpointing_keeps_less(noise):
    unet = make_unet(layers_per_block=2).train()
    plain = bytes_kept(unet, noise)
    unet.enable_gradient_checkpointing()
    assert bytes_kept(unet, noise) < 0.5 * plain
