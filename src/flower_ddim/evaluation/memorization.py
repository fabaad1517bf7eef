"""Measures how near the images of a model come to its training set: does it only remember?"""

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from ..data.image_array import ImageArray
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from .features import FeatureExtractor
from .metrics import nearest
from .scoring import generate_with_features, real_features


@dataclass(frozen=True)
class Memorization:
    """How near generated images, and held-out real ones for comparison, come to the training set.

    Args:
        report: numbers, ready for JSON.
        distances: for "features" and "pixels", distances of the generated and of the held-out images to the nearest in training.
        pairs: the generated images that come nearest in feature space: their distance, and both images, uint8 (2, C, H, W).
    """

    report: dict
    distances: dict[str, tuple[torch.Tensor, torch.Tensor]]
    pairs: list[tuple[float, torch.Tensor]]


def measure_memorization(
    pipe: FlowerDDIMPipeline,
    training: ImageArray,
    held_out: ImageArray,
    extractor: FeatureExtractor,
    num_images: int,
    num_inference_steps: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_pairs: int = 8,
) -> Memorization:
    """Finds the nearest training image of every generated and every held-out one, in feature space and in pixels.

    A model that copies comes nearer to its training set than pictures that it has never seen. Distances are Euclidean between
    features, and root mean square between pixels in [0, 1]. Under `accelerate launch` processes share the generation.
    """
    options = {"seed": seed, "batch_size": batch_size, "num_inference_steps": num_inference_steps}
    generated, generated_features = generate_with_features(pipe, extractor, num_images, Accelerator(), **options)
    train_features = real_features(training, extractor, batch_size)
    train_pixels, held_out_pixels = (_all_pixels(images, pipe, batch_size) for images in (training, held_out))
    distances, indices = {}, {}
    for space, candidates, sets in (
        ("features", train_features, (generated_features, real_features(held_out, extractor, batch_size))),
        ("pixels", train_pixels.flatten(1) / 255, (generated.flatten(1) / 255, held_out_pixels.flatten(1) / 255)),
    ):
        scale = candidates.shape[1] ** 0.5 if space == "pixels" else 1
        found = [nearest(queries, candidates) for queries in sets]
        distances[space] = tuple(distance / scale for distance, _ in found)
        indices[space] = found[0][1]
    closest = distances["features"][0].argsort()[:num_pairs]
    pairs = [
        (distances["features"][0][i].item(), torch.stack([generated[i], train_pixels[indices["features"][i]]]))
        for i in closest
    ]
    report = {
        "num_images": num_images,
        "num_inference_steps": num_inference_steps or pipe.default_num_inference_steps,
        "seed": seed,
        "feature_extractor": extractor.name,
        "training_images": len(training),
        "held_out_images": len(held_out),
        **{space: compare_distances(*both) for space, both in distances.items()},
    }
    return Memorization(report, distances, pairs)


def _all_pixels(images: ImageArray, pipe: FlowerDDIMPipeline, batch_size: int) -> torch.Tensor:
    """Converts pictures to what the model could generate, grey or coloured: uint8 (N, C, H, W)."""
    starts = range(0, len(images), batch_size)
    batches = (images[range(start, min(start + batch_size, len(images)))] for start in starts)
    seen = (pipe.postprocess(pipe.preprocess(batch), "pt") for batch in batches)
    return torch.cat([(part * 255).round().to(torch.uint8) for part in seen])


def compare_distances(generated: torch.Tensor, held_out: torch.Tensor) -> dict:
    """Quantiles of distances (N,) and (M,) to the training set, and the share of generated ones below 99 % of the held-out ones."""
    quantiles = {"minimum": 0.0, "1 %": 0.01, "10 %": 0.1, "median": 0.5}
    report = {
        name: {label: distances.quantile(q).item() for label, q in quantiles.items()}
        for name, distances in (("generated", generated), ("held_out", held_out))
    }
    nearer = (generated < held_out.quantile(0.01)).double().mean().item()
    return report | {"generated_nearer_than_1_percent_of_held_out": nearer}
