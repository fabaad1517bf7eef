"""The weights of a saved network, and how they are told from others."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file


def network_weights(pipeline: str | Path) -> dict[str, torch.Tensor]:
    """The weights of the network in the folder of a saved pipeline.

    Raises:
        FileNotFoundError: if there are none.
    """
    return load_file(Path(pipeline, "unet", "diffusion_pytorch_model.safetensors"))


def weights_checksum(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of weights and their names, the same in every file and on every device: it tells of which model a score is.

    Of half precision it is that of the same numbers in float32, since they are loaded as that.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
