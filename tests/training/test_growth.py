import pytest
import torch

from flower_ddim import FlowerUNet2DModel
from flower_ddim.training.growth import GrowingUNet, finest_level_at, zero_init_levels


TIMESTEP = torch.tensor([300.0])


def test_silent_levels_hand_pictures_through_as_if_they_had_been_pooled():
    """Down to the level that takes part, the features of a picture are those of the pooled picture, pooled."""
    torch.manual_seed(0)
    unet = FlowerUNet2DModel(sample_size=32, block_out_channels=(8, 12, 16, 20)).train()
    zero_init_levels(unet, 2)
    met = []
    unet.down_blocks[2].register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    images = torch.randn(4, 3, 32, 32)
    unet(images, TIMESTEP)
    GrowingUNet(unet, 2)(torch.nn.functional.avg_pool2d(images, 4), TIMESTEP)
    torch.testing.assert_close(met[1], met[0], rtol=1e-4, atol=1e-5)


def test_levels_that_do_not_take_part_are_left_alone():
    unet = FlowerUNet2DModel(sample_size=16, block_out_channels=(8, 12, 16)).train()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    torch.nn.init.ones_(unet.conv_out.weight)
    GrowingUNet(unet, 1)(torch.randn(2, 3, 8, 8), TIMESTEP).sample.square().mean().backward()
    without = {name for name, parameter in unet.named_parameters() if parameter.grad is None}
    convolutions = [
        f"{block}.resnets.{i}.conv{j}" for block in ("down_blocks.0", "up_blocks.1") for i in (0, 1) for j in (1, 2)
    ]
    assert without == {f"{name}.{kind}" for name in convolutions for kind in ("weight", "bias")}
    after = unet.state_dict()
    assert all(
        torch.equal(after[name], before[name])
        for name in before
        if name.startswith("down_blocks.0") and "running" in name
    )


def test_a_grown_network_is_the_network_itself(unet, noise):
    growing = GrowingUNet(unet, 1)
    growing.finest_level = 0
    assert torch.equal(growing(noise, TIMESTEP).sample, unet(noise, TIMESTEP).sample)
    assert torch.equal(growing(noise, TIMESTEP, return_dict=False)[0], unet(noise, TIMESTEP).sample)
    assert [name.removeprefix("unet.") for name in growing.state_dict()] == list(unet.state_dict())


def test_a_network_cannot_grow_levels_that_it_has_not(unet):
    with pytest.raises(ValueError, match="`growth_steps` has 3 numbers, but the network only 2 levels"):
        GrowingUNet(unet, 3)


def test_levels_are_grown_from_coarse_to_fine():
    assert [finest_level_at(step, [2, 1]) for step in range(5)] == [2, 2, 1, 0, 0]
    assert finest_level_at(0, None) == 0
