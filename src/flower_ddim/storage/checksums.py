"""The weights of a saved network, and how they are told from others."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from .json_objects import read_json_object


def network_weights(pipeline: str | Path) -> dict[str, torch.Tensor]:
    """The weights of the network in the folder of a saved pipeline, in one file or, as an index names them, in several.

    Raises:
        FileNotFoundError: if there are none.
    """
    file = Path(pipeline, "unet", "diffusion_pytorch_model.safetensors")
    index = file.with_name(f"{file.name}.index.json")
    if not index.is_file():
        return load_file(file)
    # diffusers takes the index first, whatever lies beside it.
    parts = sorted(set(read_json_object(index)["weight_map"].values()))
    return {name: tensor for part in parts for name, tensor in load_file(file.with_name(part)).items()}


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
