import pytest
import torch
from conftest import make_unet

from flower_ddim.training.ema import ExponentialMovingAverage


def changed(model, seed):
    """Gives a model other weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(generator=generator)
        else:
            tensor.add_(1)
    return model


@pytest.mark.parametrize("warmup", [{}, {"power": 1.0, "inv_gamma": 9.0}], ids=["constant", "warmup"])
def test_average_equals_the_formula_statistics_included(warmup):
    model = make_unet()
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    ema = ExponentialMovingAverage(model, max_decay=0.3, **warmup)
    for n in range(1, 6):
        changed(model, seed=n)
        ema.update(model)
        decay = min(0.3, n / (9 + n)) if warmup else 0.3
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
            else:
                expected[name] = tensor.double()
    averages = ema.averaged.state_dict()
    assert any(name.endswith("running_var") for name in averages)
    for name, average in averages.items():
        torch.testing.assert_close(average.double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_the_average_starts_as_a_copy_and_does_not_touch_the_model():
    model = make_unet().train()
    ema = ExponentialMovingAverage(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, average in ema.averaged.state_dict().items():
        assert torch.equal(average, before[name])
    ema.update(changed(make_unet(), seed=0))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert model.training and not ema.averaged.training
    assert not any(p.requires_grad for p in ema.averaged.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_a_restarted_average_is_a_copy_with_its_warm_up_before_it():
    ema = ExponentialMovingAverage(make_unet(), max_decay=0.9, power=1.0)
    first = ema.decay()
    for seed in range(3):
        ema.update(changed(make_unet(), seed))
    model = changed(make_unet(), 9)
    ema.restart(model)
    assert ema.decay() == first and ema.num_updates == 0
    for name, average in ema.averaged.state_dict().items():
        assert torch.equal(average, model.state_dict()[name])


def test_networks_with_other_weights_and_impossible_decays_are_refused():
    ema = ExponentialMovingAverage(make_unet())
    with pytest.raises(ValueError, match="mid_blocks.1"):
        ema.update(make_unet(layers_per_block=2))
    for arguments in ({"max_decay": -0.1}, {"max_decay": 1.0}, {"power": 0.0}, {"power": 1.0, "inv_gamma": 0.0}):
        with pytest.raises(ValueError, match="ema_"):
            ExponentialMovingAverage(make_unet(), **arguments)
