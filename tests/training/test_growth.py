import pytest
import torch
from conftest import make_unet
from training_runs import metrics, small_config, train_here

from flower_ddim import FlowerUNet2DModel
from flower_ddim.training.growth import GrowingUNet, finest_level_at, zero_init_levels
from flower_ddim.training.trainer import Trainer


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
    with pytest.raises(ValueError, match="`growth_steps` needs a `patch_size` of 1"):
        GrowingUNet(make_unet(patch_size=2), 1)


def test_levels_are_grown_from_coarse_to_fine():
    assert [finest_level_at(step, [2, 1]) for step in range(5)] == [2, 2, 1, 0, 0]
    assert finest_level_at(0, None) == 0


def test_a_growing_network_begins_with_pooled_pictures_and_its_coarse_levels(runs):
    options = {"block_out_channels": [8, 8, 16], "growth_steps": [2, 1], "max_train_steps": 5}
    options |= {"checkpointing_steps": 2, "checkpoints_total_limit": 0}
    trainer = Trainer(small_config(runs / "growing", **options))
    whole = Trainer(small_config(runs / "whole", max_train_steps=5))
    for step, side in ((1, 4), (2, 8)):
        pooled, noise, *_ = trainer.learner.batches.training(step)
        images, *_ = whole.learner.batches.training(step)
        assert torch.allclose(pooled, torch.nn.functional.avg_pool2d(images, 16 // side), atol=1e-6)
        assert noise.shape == pooled.shape and noise.std().item() == pytest.approx(side / 16, rel=0.05)
    for after, before in zip(
        trainer.learner.batches.training(3, 0)[:3], whole.learner.batches.training(3, 0)[:3], strict=True
    ):
        assert torch.equal(after, before)
    bodies = [
        unet.down_blocks[0].resnets[0].conv2.weight
        for unet in (trainer.learner.raw_unet, trainer.learner.ema.averaged)
    ]
    trainer.learner.unet.train()
    for _ in range(3):
        trainer.learner.training_step()
    assert not any(torch.count_nonzero(body) for body in bodies)
    assert all(  # begun anew for the whole network
        torch.equal(average, trainer.learner.raw_unet.state_dict()[name])
        for name, average in trainer.learner.ema.averaged.state_dict().items()
    )
    trainer.learner.training_step()
    assert all(torch.count_nonzero(body) for body in bodies)


def test_while_it_grows_a_network_is_neither_validated_nor_sampled(runs):
    options = {"growth_steps": [8], "max_train_steps": 15, "dataset_repeats": 1, "validation_epochs": 1}
    folder = train_here(runs / "unseen", **options, save_images_epochs=1)
    assert list(metrics(folder, "validation_loss")) == [14, 15]
    assert [path.name for path in (folder / "samples").iterdir()] == ["epoch-0002.png"]
    stopped = train_here(runs / "stopped", **options, max_train_minutes=1e-9)
    assert (stopped / "model_index.json").exists() and not (stopped / "samples.png").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"growth_steps": [2, 1]}, "`growth_steps` has 2 numbers"),
        ({"growth_steps": [8]}, "nothing of 8 steps"),
    ],
)
def test_a_growth_that_does_not_fit_is_explained(runs, options, message):
    with pytest.raises(ValueError, match=message):
        Trainer(small_config(runs / "unfit", **options))
