"""Does a model only remember? Its loss on seen and unseen pictures, and how near its images come to the training set."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..data.image_array import ImageArray
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..sampling.seeds import Purpose
from ..schedulers.scheduling_flower_ddim import FlowerDDIMScheduler
from ..training.loss import draw, velocity_errors
from .features import FeatureExtractor
from .metrics import nearest
from .scoring import generate_with_features, real_features


@torch.no_grad()
def loss_by_noise_level(
    pipe: FlowerDDIMPipeline,
    images: ImageArray,
    bins: int = 10,
    num_images: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> list[dict]:
    """Error of the velocity (see [`velocity_errors`]) in equal bins of the diffusion time u, every picture once in every bin.

    Args:
        num_images: takes so many of the pictures, evenly spread over them; all by default.

    Returns:
        For each bin its limits `from` and `to`, the mean `loss` over the pictures and its `standard_error`.
    """
    unet, device = pipe.unet.eval(), pipe.device
    # A stock scheduler knows no times between its timesteps.
    scheduler = FlowerDDIMScheduler.from_config(pipe.scheduler.config)
    chosen = torch.linspace(0, len(images) - 1, min(num_images or len(images), len(images))).round().long().tolist()
    rows = []
    for number in tqdm(range(bins), desc="noise levels"):
        errors = []
        for start in range(0, len(chosen), batch_size):
            indices = chosen[start : start + batch_size]
            pictures = pipe.preprocess(images[indices]).to(device)
            noise, position, _ = draw(
                tuple(pictures.shape[1:]), *[(seed, Purpose.NOISE_LEVELS, number, index) for index in indices]
            )
            diffusion_time = (number + position) / bins
            errors.append(
                velocity_errors(unet, scheduler, pictures, noise.to(device), diffusion_time.to(device)).cpu()
            )
        errors = torch.cat(errors)
        standard_error = (errors.std() / len(errors) ** 0.5).item()
        limits = {"from": number / bins, "to": (number + 1) / bins}
        rows.append({**limits, "loss": errors.mean().item(), "standard_error": standard_error})
    return rows


@dataclass(frozen=True)
class Memorization:
    """How near generated images, and held-out real ones for comparison, come to the training set.

    Args:
        report: numbers, ready for JSON.
        distances: by space, "features" and "pixels": distances of the generated and of the held-out images to the next in training.
        pairs: the generated images that come nearest in feature space, each with its neighbour, uint8 (2, C, H, W).
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
    num_inference_steps: int = 20,
    seed: int = 0,
    batch_size: int = 32,
    num_pairs: int = 8,
) -> Memorization:
    """Finds the nearest training image of every generated and every held-out one, in feature space and in pixels.

    A model that copies comes nearer to its training set than pictures do that have never been seen by it. Distances are
    Euclidean between features, and root mean square between pixels in [0, 1]. Under `accelerate launch` processes share the
    generation.
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
        "num_inference_steps": num_inference_steps,
        "seed": seed,
        "feature_extractor": extractor.name,
        "training_images": len(training),
        "held_out_images": len(held_out),
        **{space: _compare_distances(*both) for space, both in distances.items()},
    }
    return Memorization(report, distances, pairs)


def _all_pixels(images: ImageArray, pipe: FlowerDDIMPipeline, batch_size: int) -> torch.Tensor:
    """Pictures as the model would generate them, grey or coloured: uint8 (N, C, H, W)."""
    starts = range(0, len(images), batch_size)
    batches = (images[range(start, min(start + batch_size, len(images)))] for start in starts)
    seen = (pipe.postprocess(pipe.preprocess(batch), "pt") for batch in batches)
    return torch.cat([(part * 255).round().to(torch.uint8) for part in seen])


def _compare_distances(generated: torch.Tensor, held_out: torch.Tensor) -> dict:
    """Quantiles of both, and the share of generated images nearer than all but one in a hundred of the held-out ones."""
    quantiles = {"minimum": 0.0, "1 %": 0.01, "10 %": 0.1, "median": 0.5}
    report = {
        name: {label: distances.quantile(q).item() for label, q in quantiles.items()}
        for name, distances in (("generated", generated), ("held_out", held_out))
    }
    nearer = (generated < held_out.quantile(0.01)).double().mean().item()
    return report | {"generated_nearer_than_1_percent_of_held_out": nearer}


def memorization_table(report: dict) -> str:
    """The report of [`measure_memorization`] as a Markdown table."""
    columns = list(report["features"]["generated"])
    lines = [f"| distance to the nearest training image | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for space, digits in (("features", 1), ("pixels", 3)):
        for kind, label in (("generated", "generated"), ("held_out", "held-out photographs")):
            values = [f"{report[space][kind][column]:.{digits}f}" for column in columns]
            lines.append(f"| {label}, {space} | {' | '.join(values)} |")
    nearer = {space: report[space]["generated_nearer_than_1_percent_of_held_out"] for space in ("features", "pixels")}
    lines += [
        "",
        f"{100 * nearer['features']:.1f} % of {report['num_images']:,} generated images in feature space "
        f"({report['feature_extractor']}), and {100 * nearer['pixels']:.1f} % in pixels, are nearer to the training set than the "
        "nearest 1 % of held-out photographs.",
    ]
    return "\n".join(lines) + "\n"
