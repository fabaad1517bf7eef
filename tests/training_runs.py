"""How the tests train: options of a small, quick run on the sample flowers, in this process or by the real script."""

import json

import torch
from conftest import FLOWERS
from safetensors.torch import load_file

from flower_ddim.training import TrainingConfig, train


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"  # of a pipeline: the average
LAST_WEIGHTS = "state/model.safetensors"  # of a checkpoint

SMALL = {
    "train_data_dir": str(FLOWERS),
    "resolution": 16,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "train_batch_size": 16,
    "max_train_steps": 8,
    "logging_steps": 1,
    "checkpointing_steps": 4,
    "validation_epochs": 0,
    "num_sample_images": 4,
    "eval_batch_size": 4,
    "seed": 1,
}


def small_config(output_dir, **changes):
    """Options of a small run."""
    options = {"cache_dir": str(output_dir.parent / "cache"), "output_dir": str(output_dir)}
    return TrainingConfig(**SMALL | options | changes)


def train_here(output_dir, **changes):
    """Trains in this process; returns the output folder."""
    train(small_config(output_dir, **changes))
    return output_dir


def words(output_dir, **changes):
    """The same as command line options; `None` leaves one out."""
    options = SMALL | {"cache_dir": output_dir.parent / "cache", "output_dir": output_dir} | changes
    result = []
    for name, value in options.items():
        if value is not None:
            result += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return [str(word) for word in result]


def metrics(output_dir, name="loss"):
    """One of the numbers of `metrics.jsonl`, by step."""
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def assert_same_weights(one, other):
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
