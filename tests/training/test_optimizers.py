import pytest
import torch
from conftest import make_stock_unet, make_unet
from training_runs import metrics, small_config, train_here

from flower_ddim.training.optimizers import Muon, make_optimizers, orthogonalize


def kernel(layout):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3).to(memory_format=layout)
    conv(torch.randn(2, 4, 8, 8)).square().mean().backward()
    return conv.weight


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_updated_as_the_matrix_that_it_is(layout):
    weight = kernel(layout)
    rows = weight.detach().permute(0, 2, 3, 1).flatten(1).clone()
    matrix = torch.nn.Parameter(rows)
    matrix.grad = weight.grad.permute(0, 2, 3, 1).flatten(1)
    before, memory = weight.detach().clone(), weight.data_ptr()
    options = {"lr": 0.01, "weight_decay": 0.5}
    ours = Muon([weight], **options)
    theirs = torch.optim.Muon([matrix], adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(3):
        ours.step()
        theirs.step()
    assert weight.shape == weight.grad.shape == (8, 4, 3, 3)
    assert weight.data_ptr() == memory and weight.is_contiguous(memory_format=layout)
    # Theirs is in bfloat16, which ours is only where that is fast.
    torch.testing.assert_close(weight.permute(0, 2, 3, 1).flatten(1), matrix, atol=1e-3, rtol=0)
    assert (weight - before).abs().mean() > 0.003


@pytest.mark.parametrize("shape", [(8, 36), (36, 8)])
def test_all_singular_values_become_nearly_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix).float())
    assert 0.6 < values.min() <= values.max() < 1.3


def test_a_weight_without_gradient_stays_as_it_is():
    weight = kernel(torch.contiguous_format)
    weight.grad, before = None, weight.detach().clone()
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, before) and weight.grad is None


@pytest.mark.parametrize("make", [make_unet, make_stock_unet])
def test_muon_takes_the_kernels_inside_and_adamw_all_the_rest(make, tmp_path):
    unet = make()
    muon, adamw = make_optimizers(unet, small_config(tmp_path, optimizer="muon", learning_rate=0.5))
    parts = [{id(weight) for weight in optimizer.param_groups[0]["params"]} for optimizer in (muon, adamw)]
    assert not parts[0] & parts[1] and parts[0] | parts[1] == {id(weight) for weight in unet.parameters()}
    assert {id(unet.conv_in.weight), id(unet.conv_out.weight)} <= parts[1]
    assert all(weight.ndim >= 2 for weight in muon.param_groups[0]["params"])
    assert muon.param_groups[0]["lr"] == adamw.param_groups[0]["lr"] == 0.5


def test_a_run_with_muon_learns_and_resumes_bit_by_bit(tmp_path):
    options = {"optimizer": "muon", "max_train_steps": 6, "checkpointing_steps": 3}
    whole = train_here(tmp_path / "whole", **options)
    assert metrics(whole)[6] < metrics(whole)[1]
    resumed = train_here(tmp_path / "resumed", **options, resume_from_checkpoint=str(whole / "checkpoint-3"))
    assert metrics(resumed) == {step: loss for step, loss in metrics(whole).items() if step > 3}
