"""Growing a network from coarse to fine: its coarse levels are trained first, on small pictures, where a step costs a fraction.

After Karras et al. 2018 (https://arxiv.org/abs/1710.10196) and Gu et al. 2023 (https://arxiv.org/abs/2310.15111).
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn as nn
from diffusers.models.unets.unet_2d import UNet2DOutput

from ..models.unet_flower_ddim import FlowerUNet2DModel, noise_embedding


def finest_level_at(step: int, growth_steps: Sequence[int] | None) -> int:
    """The finest level of the network that takes part in the optimizer step `step`, from 0; level 0 is the finest of all."""
    return sum(step < grown for grown in itertools.accumulate(growth_steps or ()))


class GrowingUNet(nn.Module):
    """A U-Net of which the levels from `finest_level` to the bottleneck take part; of finer levels only the shortcuts remain.

    It has the call of the network inside; the noisy images are average-pooled `finest_level` times.

    Args:
        unet: the network; its weights are those of this module.
        num_levels: how many of its finest levels will grow; [`zero_init_levels`] prepares them.

    Raises:
        ValueError: if there are not so many levels above the bottleneck, or the network takes patches.
    """

    def __init__(self, unet: FlowerUNet2DModel, num_levels: int):
        super().__init__()
        if unet.config.patch_size > 1:
            raise ValueError(
                "`growth_steps` needs a `patch_size` of 1: patches of small pictures show other pixels. Leave it out."
            )
        if num_levels > len(unet.down_blocks):
            raise ValueError(
                f"`growth_steps` has {num_levels} numbers, but the network only {len(unet.down_blocks)} levels above its "
                "bottleneck: give fewer."
            )
        self.unet = unet
        self.finest_level = num_levels

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        unet, level = self.unet, self.finest_level
        if level == 0:
            return unet(sample, timestep, class_labels, return_dict=return_dict)
        noise_power = unet.noise_power(timestep, len(sample))
        embedding = noise_embedding(noise_power, unet.config.noise_embedding_dim)
        hidden_states = unet.embed(sample, embedding)
        embedding = unet.embed_for_blocks(embedding, class_labels, len(sample))
        skips = []
        for block in unet.down_blocks[:level]:
            for resnet in block.resnets:
                hidden_states = resnet.conv_shortcut(hidden_states)
                skips.append(hidden_states)
        for block in unet.down_blocks[level:]:
            hidden_states = block(hidden_states, skips, embedding)
        for block in unet.mid_blocks:
            hidden_states = block(hidden_states, embedding)
        coarse = len(unet.up_blocks) - level
        for block in unet.up_blocks[:coarse]:
            hidden_states = block(hidden_states, skips, embedding)
        for block in unet.up_blocks[coarse:]:
            for resnet in block.resnets:
                hidden_states = resnet.conv_shortcut(torch.cat([hidden_states, skips.pop()], dim=1))
        prediction = unet.conv_out(hidden_states)
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)


@torch.no_grad()
def zero_init_levels(unet: FlowerUNet2DModel, number: int):
    """Prepares a new network for being grown: the residual blocks of its `number` finest levels begin with zero bodies.

    All that these blocks do is then pointwise and linear, and so commutes with average pooling. The levels below meet in a picture
    what they meet in the pooled picture without the finer levels: what they learn on small pictures is of use in large ones, at the
    same place and of the same size within them.
    """
    for block in (*unet.down_blocks[:number], *unet.up_blocks[len(unet.up_blocks) - number :]):
        for resnet in block.resnets:
            resnet.conv2.weight.zero_()
