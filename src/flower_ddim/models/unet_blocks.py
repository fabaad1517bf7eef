"""The building blocks of the U-Net: residual blocks, and the down and up blocks that they make up."""

from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call


def normalization(channels: int, num_groups: int | None) -> nn.Module:
    """BatchNorm, or GroupNorm of so many groups (Wu & He 2018), without an affine map of its own, since convolutions follow.

    Raises:
        ValueError: if the channels do not fall into so many groups.
    """
    if num_groups is None:
        # Keras' defaults, as in the reference: x ← 0.99 x + 0.01 batch for the running statistics, ε = 0.001.
        return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01, affine=False)
    if channels % num_groups:
        raise ValueError(
            f"`norm_num_groups` is {num_groups}, but must divide {channels}, the channels of a block: the sums of neighbouring "
            "`block_out_channels`, and of the first one and `noise_embedding_dim`."
        )
    return nn.GroupNorm(num_groups, channels, eps=1e-3, affine=False)


class ResidualBlock(nn.Module):
    """x ↦ shortcut(x) + conv(swish(conv(norm(x)))), (B, in_channels, H, W) to (B, out_channels, H, W).

    With an `embedding_dim`, what a linear layer makes of an embedding (B, embedding_dim) is added after the first convolution, to
    all pixels alike, as in Ho et al. 2020, appendix B.
    """

    gradient_checkpointing = False  # `enable_gradient_checkpointing` sets it, and what then calls a function

    def __init__(
        self, in_channels: int, out_channels: int, embedding_dim: int = 0, norm_num_groups: int | None = None
    ):
        super().__init__()
        self.norm = normalization(in_channels, norm_num_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.emb_proj = nn.Linear(embedding_dim, out_channels) if embedding_dim else None
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        is_same = in_channels == out_channels
        self.conv_shortcut = nn.Identity() if is_same else nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor, embedding: torch.Tensor | None = None) -> torch.Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(partial(self._compute, copies={}), hidden_states, embedding)
        return self._compute(hidden_states, embedding)

    def _compute(
        self, hidden_states: torch.Tensor, embedding: torch.Tensor | None, copies: dict | None = None
    ) -> torch.Tensor:
        """The formula. Computed again with the same `copies`, a batch changes these and not the running statistics."""
        residual = self.conv_shortcut(hidden_states)
        normed = functional_call(self.norm, dict(copies), hidden_states) if copies else self.norm(hidden_states)
        if copies is not None:
            copies.update((name, buffer.clone()) for name, buffer in self.norm.named_buffers())
        convolved = self.conv1(normed)
        if self.emb_proj is not None:
            convolved = convolved + self.emb_proj(embedding)[:, :, None, None]
        return residual + self.conv2(F.silu(convolved))


class AttentionBlock(nn.Module):
    """x ↦ x + conv(attention(conv(norm(x)))), of every pixel to all of its image, (B, channels, H, W) to the same shape.

    After Ho et al. 2020, appendix B; the heads of Vaswani et al. 2017, section 3.2.2, have `head_dim` channels each.

    Raises:
        ValueError: if the channels do not fall into heads of this size.
    """

    def __init__(self, channels: int, head_dim: int, norm_num_groups: int | None = None):
        super().__init__()
        if channels % head_dim:
            raise ValueError(
                f"`attention_head_dim` is {head_dim}, but must divide {channels}, the channels of the bottleneck."
            )
        self.head_dim = head_dim
        self.norm = normalization(channels, norm_num_groups)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.to_out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor, embedding: torch.Tensor | None = None) -> torch.Tensor:
        """The embedding is not looked at: residual blocks have added it."""
        batch_size, channels, height, width = hidden_states.shape
        qkv = self.to_qkv(self.norm(hidden_states)).reshape(batch_size, 3, -1, self.head_dim, height * width)
        queries, keys, values = qkv.transpose(-1, -2).unbind(1)  # (B, heads, H · W, head_dim) each
        attended = F.scaled_dot_product_attention(queries, keys, values).transpose(-1, -2)
        return hidden_states + self.to_out(attended.reshape(batch_size, channels, height, width))


class DownBlock(nn.Module):
    """Residual blocks, each output added to the skips, then 2×2 average pooling: (B, in_channels, H, W) to half the sides.

    The options are those of a [`ResidualBlock`].
    """

    def __init__(self, in_channels: int, out_channels: int, num_layers: int, **options):
        super().__init__()
        inputs = [in_channels, *[out_channels] * (num_layers - 1)]
        self.resnets = nn.ModuleList(ResidualBlock(channels, out_channels, **options) for channels in inputs)

    def forward(
        self, hidden_states: torch.Tensor, skips: list[torch.Tensor], embedding: torch.Tensor | None = None
    ) -> torch.Tensor:
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states, embedding)
            skips.append(hidden_states)
        return F.avg_pool2d(hidden_states, kernel_size=2)


class UpBlock(nn.Module):
    """Bilinear ×2 upsampling of (B, in_channels, H, W), then residual blocks, each on its input joined with the latest skip.

    The options are those of a [`ResidualBlock`].
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, num_layers: int, **options):
        super().__init__()
        inputs = [in_channels, *[out_channels] * (num_layers - 1)]
        self.resnets = nn.ModuleList(
            ResidualBlock(channels + skip_channels, out_channels, **options) for channels in inputs
        )

    def forward(
        self, hidden_states: torch.Tensor, skips: list[torch.Tensor], embedding: torch.Tensor | None = None
    ) -> torch.Tensor:
        hidden_states = upsample(hidden_states)
        for resnet in self.resnets:
            hidden_states = resnet(torch.cat([hidden_states, skips.pop()], dim=1), embedding)
        return hidden_states


def upsample(hidden_states: torch.Tensor) -> torch.Tensor:
    """Bilinear ×2 upsampling with half-pixel centres, (B, C, H, W) to (B, C, 2H, 2W)."""
    # For CPUs PyTorch's compiler turns this into a loop of its own, which gathers number by number: a quarter of a forward pass
    # in bfloat16. An operator that the compiler cannot look into calls PyTorch's own kernel.
    if hidden_states.device.type == "cpu" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return torch.ops.flower_ddim.upsample(hidden_states)
    return _bilinear(hidden_states)


def _bilinear(hidden_states: torch.Tensor) -> torch.Tensor:
    return F.interpolate(hidden_states, scale_factor=2, mode="bilinear", align_corners=False)


def _bilinear_backward(gradient: torch.Tensor) -> torch.Tensor:
    batch_size, channels, height, width = gradient.shape
    input_size = [batch_size, channels, height // 2, width // 2]
    return torch.ops.aten.upsample_bilinear2d_backward(gradient, [height, width], input_size, False, 2.0, 2.0)


# A copy of this module, out of a model folder, may have registered the operators already. The gradient is an operator, too: the
# compiler cannot tell the shape of PyTorch's own where sizes are symbols.
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
