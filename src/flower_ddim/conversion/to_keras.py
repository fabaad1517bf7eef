"""Writes the weights of a pipeline for the network of the book, which Keras then loads."""

from pathlib import Path

from ..extras import install_command
from ..models.unet_flower_ddim import FlowerUNet2DModel
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.files import replacing
from .from_keras import expected_layers


ENDING = ".weights.h5"  # Keras takes no other

# What the chapter's code has built in, by the names of our configurations.
NETWORK = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 2,
    "noise_embedding_dim": 32,
    "schedule": "offset_cosine",
    "min_signal_rate": 0.02,
    "max_signal_rate": 0.95,
    "num_class_embeds": None,
    "norm_num_groups": None,
    "attention_head_dim": None,
    "patch_size": 1,
}


def export_keras(pipe: FlowerDDIMPipeline, path: str | Path):
    """Writes the U-Net as `ddm.ema_network.load_weights(path)` of the chapter reads it.

    The network of the chapter has no statistics of pictures: those are the mean and the variance of `ddm.normalizer`, here
    `unet.config.image_mean` and the square of `image_std`.

    Raises:
        ModuleNotFoundError: without Keras, naming the extra.
        ValueError: for another network, schedule or target than the chapter's, or a path with another ending.
    """
    path = Path(path)
    if not path.name.endswith(ENDING):
        raise ValueError(f"{path} must end in {ENDING}, for Keras reads no other.")
    check_is_of_the_chapter(pipe)
    try:
        from .keras_reference import build_network, layers
    except ModuleNotFoundError as error:
        hint = f"The conversion needs {error.name}: {install_command('keras')}"
        raise ModuleNotFoundError(hint, name=error.name) from error
    network = build_network(pipe.unet.config.sample_size)
    norms = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]
    convolutions = [layer for layer in network.layers if isinstance(layer, layers.Conv2D)]
    theirs = {
        "norm": norms,
        "conv1x1": [layer for layer in convolutions if layer.kernel_size == (1, 1)],
        "conv3x3": [layer for layer in convolutions if layer.kernel_size == (3, 3)],
    }
    weights = pipe.unet.state_dict()
    for kind, ours in expected_layers(pipe.unet).items():
        for layer, (name, suffixes) in zip(theirs[kind], ours, strict=True):
            tensors = [weights[f"{name}.{suffix}"].float().cpu() for suffix in suffixes]
            # (out, in, height, width) -> (height, width, in, out)
            layer.set_weights([(t.permute(2, 3, 1, 0) if t.ndim == 4 else t).numpy() for t in tensors])
    with replacing(path) as unfinished:
        network.save_weights(unfinished)


def check_is_of_the_chapter(pipe: FlowerDDIMPipeline):
    """Raises a ValueError for a pipeline that the code of the chapter cannot be."""
    unet, config = pipe.unet, pipe.unet.config
    remedy = "convert a model of `flower-ddim train book`"
    if not isinstance(unet, FlowerUNet2DModel):
        raise ValueError(f"The network is a {type(unet).__name__}, not that of the chapter: {remedy}.")
    found = {name: tuple(value) if isinstance(value := config[name], list) else value for name in NETWORK}
    for name, wanted in NETWORK.items():
        if found[name] != wanted:
            raise ValueError(f"`{name}` is {found[name]}, but the network of the chapter has {wanted}: {remedy}.")
    if not isinstance(config.sample_size, int):
        raise ValueError(
            f"`sample_size` is {config.sample_size}, but the pictures of the chapter are square: {remedy}."
        )
    if (target := pipe.scheduler.config.prediction_type) != "epsilon":
        raise ValueError(f"The network predicts {target}, but that of the chapter predicts noise: {remedy}.")
