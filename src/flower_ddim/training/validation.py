"""Measures a model while it is trained: its loss on the validation pictures, and its KID against them."""

import torch
from accelerate import Accelerator

from ..data.image_array import ImageArray
from ..evaluation.features import load_extractor
from ..evaluation.metrics import KID_SUBSET_SIZE, check_possible, kernel_distance
from ..evaluation.scoring import generate_with_features, real_features
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from .config import TrainingConfig
from .learner import Learner


@torch.no_grad()
def validation_losses(networks: dict[str, torch.nn.Module], learner: Learner) -> dict[str, float]:
    """Losses of networks of a learner, by their names, on all validation pictures, with the same noise every time.

    Where classes are learned, `NAME_without_labels` is the loss of the same network if it is not told them. Every process must
    call this and gets the same.
    """
    config, accelerator, batches = learner.config, learner.accelerator, learner.batches
    measured = [(name, network, True) for name, network in networks.items()]
    if config.class_conditional:
        measured += [(f"{name}_without_labels", network, False) for name, network in networks.items()]
    sums = torch.zeros(len(measured) + 1, device=accelerator.device)
    mine = range(accelerator.process_index, len(batches.pictures.validation), accelerator.num_processes)
    for start in range(0, len(mine), config.eval_batch_size):
        indices = mine[start : start + config.eval_batch_size]
        *batch, labels = batches.validation(indices)
        for i, (_, network, is_told) in enumerate(measured):
            with accelerator.autocast():
                loss = learner.loss(network, *batch, labels if is_told else None)
                sums[i] += len(indices) * loss
        sums[-1] += len(indices)
    sums = accelerator.reduce(sums, "sum")
    return {name: (sums[i] / sums[-1]).item() for i, (name, _, _) in enumerate(measured)}


class KidWatch:
    """Measures KID during a training, always of the same seeds, so that only the weights make a difference.

    Raises:
        ValueError: if the feature extractor cannot be had, or there are too few pictures, before any training.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, validation: ImageArray):
        check_possible(config.eval_kid_images, len(validation), needed=2)
        self.config = config
        self.accelerator = accelerator
        self.extractor = load_extractor(config.eval_kid_extractor, accelerator.device)
        self.validation = validation
        self.real = None  # features, when they are first needed

    def __call__(self, pipeline: FlowerDDIMPipeline) -> dict[str, float]:
        """`kid` and its standard deviation `kid_std`, in the model's steps; every process must call this and gets the result."""
        if self.real is None:
            self.real = real_features(self.validation, self.extractor, self.config.eval_batch_size)
        pipeline.set_progress_bar_config(disable=True)
        with self.accelerator.autocast():
            _, features = generate_with_features(
                pipeline,
                self.extractor,
                self.config.eval_kid_images,
                self.accelerator,
                batch_size=self.config.eval_batch_size,
            )
        size = min(KID_SUBSET_SIZE, len(features), len(self.real))
        kid = kernel_distance(features, self.real, subset_size=size)
        return {"kid": kid["mean"], "kid_std": kid["std"]}
