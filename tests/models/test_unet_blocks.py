import copy

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from conftest import make_unet

from flower_ddim.models.unet_blocks import AttentionBlock, DownBlock, ResidualBlock, UpBlock


def test_a_residual_block_is_the_formula_of_its_docstring():
    torch.manual_seed(0)
    block = ResidualBlock(6, 8).eval()
    torch.nn.init.normal_(block.norm.running_mean)
    torch.nn.init.uniform_(block.norm.running_var, 0.5, 2)
    hidden_states = torch.randn(5, 6, 4, 3)
    mean, variance = (tensor[:, None, None] for tensor in (block.norm.running_mean, block.norm.running_var))
    body = block.conv1((hidden_states - mean) / (variance + 0.001).sqrt())
    expected = block.conv_shortcut(hidden_states) + block.conv2(body * torch.sigmoid(body))
    torch.testing.assert_close(block(hidden_states), expected)
    assert isinstance(ResidualBlock(6, 6).conv_shortcut, torch.nn.Identity)


def test_groups_of_channels_are_normalised_within_each_image():
    block = ResidualBlock(6, 8, norm_num_groups=3)
    hidden_states = 5 + 3 * torch.randn(5, 6, 4, 3)
    groups = hidden_states.reshape(5, 3, 24)
    mean, variance = groups.mean(-1, keepdim=True), groups.var(-1, correction=0, keepdim=True)
    body = block.conv1(((groups - mean) / (variance + 0.001).sqrt()).reshape(hidden_states.shape))
    expected = block.conv_shortcut(hidden_states) + block.conv2(body * torch.sigmoid(body))
    torch.testing.assert_close(block(hidden_states), expected)
    assert torch.equal(block(hidden_states), block.eval()(hidden_states)) and not dict(block.named_buffers())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_attention_is_the_formula_of_its_heads(layout):
    block = AttentionBlock(12, head_dim=4, norm_num_groups=3).to(memory_format=layout)
    hidden_states = torch.randn(2, 12, 3, 5).to(memory_format=layout)
    queries, keys, values = block.to_qkv(block.norm(hidden_states)).flatten(2).chunk(3, dim=1)  # (B, 12, pixels) each
    heads = []
    for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
        weights = torch.softmax(queries[:, head].mT @ keys[:, head] / 2, dim=-1)  # of every pixel for all
        heads.append((weights @ values[:, head].mT).mT)
    expected = hidden_states + block.to_out(torch.cat(heads, dim=1).reshape(2, 12, 3, 5))
    torch.testing.assert_close(block(hidden_states), expected)


def test_down_blocks_leave_skips_that_up_blocks_use_up_latest_first():
    skips = []
    features = DownBlock(6, 8, num_layers=2)(torch.randn(2, 6, 8, 8), skips)
    assert features.shape == (2, 8, 4, 4) and [skip.shape for skip in skips] == [(2, 8, 8, 8)] * 2
    assert torch.equal(features, torch.nn.functional.avg_pool2d(skips[1], 2))
    up = UpBlock(8, 8, 4, num_layers=2)
    met = []
    for resnet in up.resnets:
        resnet.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    kept = list(skips)
    assert up(features, skips).shape == (2, 4, 8, 8) and not skips
    assert torch.equal(met[0][:, 8:], kept[1]) and torch.equal(met[1][:, 4:], kept[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("widths", [(8, 16), (8,)])  # without down blocks, the bottleneck is given the embedding
def test_an_embedding_is_repeated_over_all_pixels_as_further_channels(widths, training, layout):
    unet = make_unet(block_out_channels=widths).train(training).to(memory_format=layout)
    first = (unet.down_blocks[0].resnets if len(widths) > 1 else unet.mid_blocks)[0]
    met = []
    first.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    noise, embedding = torch.randn(5, 3, 16, 16), torch.randn(5, 32, dtype=torch.float64)
    unet.predict(noise, embedding)
    planes = embedding.float()[:, :, None, None].expand(-1, -1, 16, 16)
    torch.testing.assert_close(met[0], torch.cat([unet.conv_in(noise), planes], dim=1))
    assert met[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("training", [True, False])
def test_one_embedding_serves_a_whole_batch(training):
    noise, embedding = torch.randn(5, 3, 16, 16), torch.randn(1, 32)
    one, many = (make_unet().train(training).predict(noise, e) for e in (embedding, embedding.expand(5, -1)))
    assert torch.equal(one, many)


def test_statistics_in_single_precision_serve_weights_of_half():
    unet = make_unet()
    half = copy.deepcopy(unet).to(torch.bfloat16)
    half.down_blocks[0].resnets[0].norm.float()
    noise, embedding = torch.randn(5, 3, 16, 16).bfloat16(), torch.randn(5, 32)
    output, expected = half.predict(noise, embedding), unet.predict(noise.float(), embedding)
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).abs().max() < 0.05 * expected.abs().max()


LAYERS = ["norm", "conv1", "conv2", "conv_shortcut"]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_hooks_are_called(name):
    """As offloading to the CPU needs it, which brings the weights in only when a layer is called."""
    unet = make_unet()
    noise = torch.randn(5, 3, 16, 16)
    expected = unet(noise, 300).sample
    called = []

    class Hook(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            called.append(module)
            return args, kwargs

    layer = getattr(unet.down_blocks[0].resnets[0], name)
    add_hook_to_module(layer, Hook())
    assert torch.equal(unet(noise, 300).sample, expected)
    assert called == [layer]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_hooks_of_pytorch_are_called(name, training):
    """Those of the backward pass, too; and normalisation in training, where `--sync_batchnorm` shares statistics."""
    unet = make_unet().train(training)
    called = []
    layer = getattr(unet.down_blocks[0].resnets[0], name)
    handles = [
        layer.register_forward_hook(lambda module, *_: called.append(module)),
        layer.register_full_backward_hook(lambda module, *_: called.append(module)),
    ]
    unet(torch.randn(5, 3, 16, 16), 300).sample.sum().backward()
    assert called == [layer, layer]
    for handle in handles:
        handle.remove()
    unet(torch.randn(5, 3, 16, 16), 300).sample.sum().backward()
    assert called == [layer, layer]
