"""The building blocks of the U-Net: residual blocks, and the levels that they are stacked to."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def _bilinear(hidden_states: torch.Tensor) -> torch.Tensor:
    return F.interpolate(hidden_states, scale_factor=2, mode="bilinear", align_corners=False)


def _bilinear_backward(gradient: torch.Tensor) -> torch.Tensor:
    batch_size, channels, height, width = gradient.shape
    input_size = [batch_size, channels, height // 2, width // 2]
    return torch.ops.aten.upsample_bilinear2d_backward(gradient, [height, width], input_size, False, 2.0, 2.0)


# A copy of this module, out of a model folder, may have registered them already. The gradient is an operator too, since the
# shape of PyTorch's own cannot be told where sizes are symbols.
if not hasattr(torch.ops.flower_ddim, "upsample"):
    for name, function, fake in (
        ("flower_ddim::upsample", _bilinear, _bilinear),
        ("flower_ddim::upsample_backward", _bilinear_backward, lambda gradient: F.avg_pool2d(gradient, kernel_size=2)),
    ):
        torch.library.custom_op(name, function, mutates_args=(), schema="(Tensor input) -> Tensor")
        torch.library.register_fake(name, fake)
    torch.library.register_autograd(
        "flower_ddim::upsample", lambda ctx, gradient: torch.ops.flower_ddim.upsample_backward(gradient)
    )


def upsample(hidden_states: torch.Tensor) -> torch.Tensor:
    """Bilinear ×2 upsampling with half-pixel centres, (B, C, H, W) to (B, C, 2H, 2W)."""
    # For CPUs PyTorch's compiler makes a loop of its own of this, which gathers number by number: in bfloat16 a quarter of a
    # forward pass. As an operator of which it knows nothing, PyTorch's own kernel is called.
    if hidden_states.device.type == "cpu" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return torch.ops.flower_ddim.upsample(hidden_states)
    return _bilinear(hidden_states)


class ResidualBlock(nn.Module):
    """x ↦ shortcut(x) + conv(swish(conv(norm(x)))), at one resolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        # Keras' defaults, as in the reference: x ← 0.99 x + 0.01 batch for the running statistics, ε = 0.001.
        self.norm = nn.BatchNorm2d(in_channels, eps=1e-3, momentum=0.01, affine=False)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(in_channels, out_channels, kernel_size=1) if in_channels != out_channels else nn.Identity()
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.conv_shortcut(hidden_states)
        hidden_states = F.silu(self.conv1(self.norm(hidden_states)))
        return residual + self.conv2(hidden_states)

    def shortcut(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What is left of `forward` without the body."""
        return self.conv_shortcut(hidden_states)


class EmbeddedResidualBlock(ResidualBlock):
    """A residual block of a pair, features (B, in_channels, H, W) and an embedding (B or 1, embedding_dim).

    It computes what a [`ResidualBlock`] would with the embedding spread over all pixels as that many channels more. In a plane
    of one number a 3×3 kernel meets nine different surroundings only, those of the inside, the edges and the corners: so when
    images are generated the embedding costs next to nothing, where spread it would be half of the block.
    """

    def __init__(self, in_channels: int, embedding_dim: int, out_channels: int):
        super().__init__(in_channels + embedding_dim, out_channels)
        self.parts = [in_channels, embedding_dim]

    def forward(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if self.training or not self._is_plain():
            return super().forward(_spread(*inputs))
        hidden_states, embedding = inputs
        kernel, embedding_kernel = self.conv_shortcut.weight.split(self.parts, dim=1)
        shift = F.conv2d(
            embedding.to(hidden_states.dtype)[:, :, None, None], embedding_kernel, self.conv_shortcut.bias
        )
        residual = F.conv2d(hidden_states, kernel) + shift

        means, variances = self.norm.running_mean.split(self.parts), self.norm.running_var.split(self.parts)
        constants = (embedding.to(means[1].dtype) - means[1]) * torch.rsqrt(variances[1] + self.norm.eps)
        kernel, constants_kernel = self.conv1.weight.split(self.parts, dim=1)
        normalized = F.batch_norm(hidden_states, means[0], variances[0], eps=self.norm.eps)
        hidden_states = F.conv2d(normalized, kernel, padding=1)
        constants = constants.to(hidden_states.dtype)
        hidden_states += _convolve_constants(constants, constants_kernel, self.conv1.bias, hidden_states)
        return residual + self.conv2(F.silu(hidden_states))

    def shortcut(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return super().shortcut(_spread(*inputs))

    def _is_plain(self) -> bool:
        """Whether nothing hangs on the layers (adapters, quantisation, offloading) that needs them to be called."""
        layers = ((self.norm, nn.BatchNorm2d), (self.conv1, nn.Conv2d), (self.conv_shortcut, nn.Conv2d))
        return all(type(layer) is kind and not _has_hooks(layer) for layer, kind in layers)


def _has_hooks(layer: nn.Module) -> bool:
    """Whether something is to happen when the layer is called: by PyTorch, accelerate or diffusers."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return bool(hooked) or hasattr(layer, "_hf_hook") or hasattr(layer, "_diffusers_hook")


def _spread(hidden_states: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Features (B, C, H, W) with the embedding (B or 1, E) at every pixel: (B, C + E, H, W)."""
    planes = embedding.to(hidden_states.dtype)[:, :, None, None]
    planes = planes.expand(len(hidden_states), -1, *hidden_states.shape[-2:])
    return torch.cat([hidden_states, laid_out_as(hidden_states, planes)], dim=1)


def _convolve_constants(
    constants: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, like: torch.Tensor
) -> torch.Tensor:
    """3×3 convolution, padded with zeros, of planes of one number each: (B, C) to (B, out, H, W), sized and laid out as `like`."""
    height, width = like.shape[-2:]
    planes = constants[:, :, None, None].expand(-1, -1, min(height, 3), min(width, 3))
    tile = F.conv2d(planes, kernel, bias, padding=1)
    if height > 3:
        top, inside, bottom = tile.split(1, dim=2)
        tile = torch.cat([top, inside.expand(-1, -1, height - 2, -1), bottom], dim=2)
    if width > 3:
        left, inside, right = tile.split(1, dim=3)
        tile = torch.cat([left, inside.expand(-1, -1, -1, width - 2), right], dim=3)
    return laid_out_as(like, tile)


def laid_out_as(like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in the memory format of `like`: PyTorch joins and adds tensors of different formats slowly."""
    is_channels_last = like.is_contiguous(memory_format=torch.channels_last)
    return tensor.contiguous(memory_format=torch.channels_last if is_channels_last else torch.contiguous_format)


def residual_block(in_channels: int, out_channels: int, embedding_dim: int) -> ResidualBlock:
    """A residual block that takes in an embedding, if there is one."""
    if embedding_dim:
        return EmbeddedResidualBlock(in_channels, embedding_dim, out_channels)
    return ResidualBlock(in_channels, out_channels)


class DownBlock(nn.Module):
    """Residual blocks, each output kept as a skip, then 2×2 average pooling.

    With an `embedding_dim` it is given a pair, features and embedding, which goes to the first of its blocks.
    """

    def __init__(self, in_channels: int, out_channels: int, num_layers: int, embedding_dim: int = 0):
        super().__init__()
        first = residual_block(in_channels, out_channels, embedding_dim)
        self.resnets = nn.ModuleList(
            [first, *(ResidualBlock(out_channels, out_channels) for _ in range(num_layers - 1))]
        )

    def forward(self, hidden_states: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states)
            skips.append(hidden_states)
        return F.avg_pool2d(hidden_states, kernel_size=2)

    def shortcuts(self, hidden_states: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """What is left of `forward` without the bodies of the residual blocks and the pooling."""
        for resnet in self.resnets:
            hidden_states = resnet.shortcut(hidden_states)
            skips.append(hidden_states)
        return hidden_states


class UpBlock(nn.Module):
    """Bilinear ×2 upsampling, then residual blocks, each on its input concatenated with the latest skip."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, num_layers: int):
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock((in_channels if i == 0 else out_channels) + skip_channels, out_channels)
            for i in range(num_layers)
        )

    def forward(self, hidden_states: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        hidden_states = upsample(hidden_states)
        for resnet in self.resnets:
            hidden_states = resnet(torch.cat([hidden_states, skips.pop()], dim=1))
        return hidden_states

    def shortcuts(self, hidden_states: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """What is left of `forward` without the bodies of the residual blocks and the upsampling."""
        for resnet in self.resnets:
            hidden_states = resnet.shortcut(torch.cat([hidden_states, skips.pop()], dim=1))
        return hidden_states
