"""Converts a `.weights.h5` or `.keras` file of the Keras reference network to a pipeline."""

import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..models.unet_blocks import ResidualBlock
from ..models.unet_flower_ddim import FlowerUNet2DModel
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..schedulers.scheduling_flower_ddim import FlowerDDIMScheduler


# A file holds the network alone, or the whole diffusion model. In that the averaged network is the one to generate with.
NETWORK_PREFIXES = ("ema_network/", "network/", "")
# Keras stores a layer of a model class under its attribute or under its class, whichever it finds first.
NORMALIZER_PREFIXES = ("normalizer/vars/", "layers/normalization/vars/")
_LAYER = re.compile(r"layers/(conv2d|batch_normalization)(?:_(\d+))?/vars/([01])")


def convert_keras(
    path: str | Path,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    **unet_config,
) -> FlowerDDIMPipeline:
    """Reads a file of the Keras reference and returns the pipeline that generates the same images.

    Args:
        path: a `.weights.h5` file (`model.save_weights`) or a `.keras` file (`model.save`) of the U-Net, or of the whole
            diffusion model, of which this takes the averaged network.
        image_mean, image_std: channel statistics of the training images in [0, 1]; by default those of the file's
            `Normalization` layer, which only the whole diffusion model has.
        unet_config: settings of [`FlowerUNet2DModel`] that differ from its defaults.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no Keras file, lacks statistics, or does not fit the architecture. The message lists all misfits.
    """
    if (image_mean is None) != (image_std is None):
        raise ValueError("`image_mean` and `image_std` belong together: give both, or neither for those of the file.")
    variables = read_keras_variables(path)
    if image_mean is None:
        image_mean, image_std = _normalizer_statistics(variables, path)
    unet = FlowerUNet2DModel(image_mean=list(image_mean), image_std=list(image_std), **unet_config)
    unet.load_state_dict(_state_dict(_network_variables(variables, path), unet, path))
    schedule = {name: unet.config[name] for name in ("schedule", "min_signal_rate", "max_signal_rate")}
    return FlowerDDIMPipeline(unet.eval(), FlowerDDIMScheduler(unet.config.num_train_timesteps, **schedule))


def read_keras_variables(path: str | Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a `.weights.h5` or `.keras` file, by their path inside it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file of Keras.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: name a `.weights.h5` or `.keras` file.")
    variables = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            variables[name] = item[()]

    try:
        source = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(source, "r") as file:
            file.visititems(keep)
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a Keras file: save it with `model.save_weights('….weights.h5')`.") from error
    return variables


def _network_variables(variables: dict[str, np.ndarray], path) -> dict[str, np.ndarray]:
    for prefix in NETWORK_PREFIXES:
        network = {n.removeprefix(prefix): a for n, a in variables.items() if n.startswith(prefix + "layers/")}
        if network:
            return network
    found = ", ".join(variables) or "nothing"
    raise ValueError(f"{path} holds no layers of a network, only {found}: save it with `model.save_weights`.")


def _normalizer_statistics(variables: dict[str, np.ndarray], path) -> tuple[list[float], list[float]]:
    for prefix in NORMALIZER_PREFIXES:
        if f"{prefix}0" in variables:
            return variables[f"{prefix}0"].ravel().tolist(), np.sqrt(variables[f"{prefix}1"]).ravel().tolist()
    raise ValueError(
        f"{path} holds no `Normalization` layer: give the `image_mean` and `image_std` of the training images in [0, 1]."
    )


def _state_dict(variables: dict[str, np.ndarray], unet: FlowerUNet2DModel, path) -> dict[str, torch.Tensor]:
    """Maps the file's variables to the names of `unet`, or raises a ValueError that lists everything that does not fit.

    Keras numbers layers by class in the order of the graph, where either of two parallel branches may come first. Within the 3×3
    convolutions, the 1×1 convolutions and the normalizations, the order is certain.
    """
    found = {"conv1x1": [], "conv3x3": [], "norm": []}
    problems = []
    layers = {}
    for name, array in variables.items():
        match = _LAYER.fullmatch(name)
        if match:
            layers.setdefault((match[1], int(match[2] or 0)), {})[match[3]] = (name, array)
        else:
            problems.append(f"{name} {array.shape} matches nothing")
    for (kind, _), layer in sorted(layers.items()):
        is_pointwise = kind == "conv2d" and "0" in layer and layer["0"][1].shape[:2] == (1, 1)
        found["norm" if kind != "conv2d" else "conv1x1" if is_pointwise else "conv3x3"].append(layer)

    state_dict = unet.state_dict()
    for kind, names in expected_layers(unet).items():
        for position, (ours, suffixes) in enumerate(names):
            layer = found[kind][position] if position < len(found[kind]) else {}
            for index, suffix in enumerate(suffixes):
                theirs, array = layer.get(str(index), ("nothing", None))
                target = state_dict[f"{ours}.{suffix}"]
                if array is not None and array.ndim == 4:
                    array = array.transpose(3, 2, 0, 1)  # (height, width, in, out) -> (out, in, height, width)
                if array is None or array.shape != tuple(target.shape):
                    shape = "" if array is None else f" {array.shape}"
                    problems.append(f"{ours}.{suffix} {tuple(target.shape)} was met by {theirs}{shape}")
                else:
                    state_dict[f"{ours}.{suffix}"] = torch.from_numpy(np.ascontiguousarray(array))
        for layer in found[kind][len(names) :]:
            problems += [f"{name} {array.shape} matches nothing" for name, array in layer.values()]
    if problems:
        remedy = "give its `sample_size`, `block_out_channels` and `layers_per_block`"
        raise ValueError(f"{path} does not fit the network: {remedy}.\n  " + "\n  ".join(problems))
    return state_dict


def expected_layers(unet: FlowerUNet2DModel) -> dict[str, list[tuple[str, tuple[str, str]]]]:
    """Names our layers, and their tensors, in the order of the graph."""
    conv, norm = ("weight", "bias"), ("running_mean", "running_var")
    expected = {"conv1x1": [("conv_in", conv)], "conv3x3": [], "norm": []}
    for name, module in unet.named_modules():
        if isinstance(module, ResidualBlock):
            expected["norm"].append((f"{name}.norm", norm))
            expected["conv3x3"] += [(f"{name}.conv1", conv), (f"{name}.conv2", conv)]
            if isinstance(module.conv_shortcut, torch.nn.Conv2d):
                expected["conv1x1"].append((f"{name}.conv_shortcut", conv))
    expected["conv1x1"].append(("conv_out", conv))
    return expected
