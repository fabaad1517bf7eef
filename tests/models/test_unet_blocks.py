import copy

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from flower_ddim.models.unet_blocks import EmbeddedResidualBlock, ResidualBlock


def make_blocks():
    """A block that is given an embedding, and the plain one with the same weights that is given it spread over the pixels."""
    torch.manual_seed(0)
    embedded, plain = EmbeddedResidualBlock(6, 4, 8), ResidualBlock(10, 8)
    torch.nn.init.normal_(embedded.conv1.bias)
    torch.nn.init.normal_(embedded.conv_shortcut.bias)
    torch.nn.init.normal_(embedded.norm.running_mean)
    torch.nn.init.uniform_(embedded.norm.running_var, 0.5, 2)
    plain.load_state_dict(embedded.state_dict())
    return embedded, plain


def spread(hidden_states, embedding):
    planes = embedding[:, :, None, None].expand(len(hidden_states), -1, *hidden_states.shape[-2:])
    return torch.cat([hidden_states, planes.to(hidden_states.dtype)], dim=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 4), (8, 5)])
def test_an_embedding_counts_as_if_it_were_spread_over_all_pixels(size, training, layout):
    embedded, plain = (block.train(training).to(memory_format=layout) for block in make_blocks())
    hidden_states = torch.randn(5, 6, *size).to(memory_format=layout).requires_grad_()
    embedding = torch.randn(5, 4, dtype=torch.float64)
    output = embedded((hidden_states, embedding))
    expected = plain(spread(hidden_states, embedding))
    torch.testing.assert_close(output, expected)

    weights = torch.randn_like(expected)
    inputs = hidden_states, *embedded.parameters()
    gradients = torch.autograd.grad((output * weights).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), (hidden_states, *plain.parameters()))
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embedded.state_dict(), plain.state_dict())


def test_one_embedding_serves_a_whole_batch():
    embedded, plain = (block.train() for block in make_blocks())
    hidden_states, embedding = torch.randn(5, 6, 8, 8), torch.randn(1, 4)
    torch.testing.assert_close(embedded((hidden_states, embedding)), plain(spread(hidden_states, embedding)))
    torch.testing.assert_close(embedded.state_dict(), plain.state_dict())


def test_statistics_in_single_precision_serve_weights_of_half():
    embedded, plain = (block.eval() for block in make_blocks())
    half = copy.deepcopy(embedded).to(torch.bfloat16)
    half.norm.float()
    hidden_states, embedding = torch.randn(5, 6, 8, 8).bfloat16(), torch.randn(5, 4)
    output, expected = half((hidden_states, embedding)), plain(spread(hidden_states, embedding).float())
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("name", ["conv1", "conv_shortcut"])
def test_layers_with_hooks_are_called(name):
    """As offloading to the CPU needs it, which brings the weights in only when a layer is called."""
    embedded, plain = (block.eval() for block in make_blocks())
    called = []

    class Hook(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            called.append(module)
            return args, kwargs

    hidden_states, embedding = torch.randn(5, 6, 8, 8), torch.randn(1, 4)
    layer = getattr(embedded, name)
    add_hook_to_module(layer, Hook())
    torch.testing.assert_close(embedded((hidden_states, embedding)), plain(spread(hidden_states, embedding)))
    assert called == [layer]


@pytest.mark.parametrize("name", ["norm", "conv1", "conv_shortcut"])
def test_hooks_of_pytorch_are_called(name):
    embedded, _ = (block.eval() for block in make_blocks())
    called = []
    layer = getattr(embedded, name)
    handle = layer.register_forward_hook(lambda module, *_: called.append(module))
    embedded((torch.randn(5, 6, 8, 8), torch.randn(1, 4)))
    assert called == [layer]
    handle.remove()
    embedded((torch.randn(5, 6, 8, 8), torch.randn(1, 4)))
    assert called == [layer]


def test_normalisation_is_called_in_training():
    """`--sync_batchnorm` shares the statistics of a batch between processes in that call."""
    embedded = make_blocks()[0].train()
    called = []
    embedded.norm.register_forward_hook(lambda *_: called.append(True))
    embedded((torch.randn(5, 6, 8, 8), torch.randn(5, 4)))
    assert called == [True]
