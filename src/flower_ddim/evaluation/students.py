"""Students beside their teacher: how good they are in a few steps, and how quick."""

import statistics
from collections.abc import Sequence

import torch

from ..pipelines.loading import is_student
from .metrics import Reference
from .scoring import ScoredModel


TEACHER_STEPS = (20, 8, 4, 2, 1)
SEEDS = (0, 10_000, 20_000)
ROUNDS = 5  # of timing


def compare_students(
    teacher: str,
    students: Sequence[str],
    reference: Reference,
    steps: Sequence[int] = TEACHER_STEPS,
    seeds: Sequence[int] = SEEDS,
    num_images: int = 500,
    **options,
) -> dict:
    """Measures KID and time of a teacher in several numbers of steps, and of every student in its own.

    KID is that of one set of images for each seed, from the same noise for all; times are taken in turns, the median counts.

    Args:
        teacher, students: folders of pipelines, or their ids on the Hub.
        seeds: the first seed of each set, at least two.
        options: those of [`ScoredModel`].

    Returns:
        The settings, and `rows` of `role`, `model`, `num_inference_steps`, `network_evaluations`, `kid` (its mean over the sets and
        their standard deviation) and `seconds_per_image`, ready for JSON.

    Raises:
        ValueError: for a student that is none, or fewer than two sets.
    """
    if len(seeds) < 2:
        raise ValueError("`seeds` must be two or more: one set of images does not say how far another would differ.")
    models = {name: ScoredModel(name, reference, num_images, **options) for name in (teacher, *students)}
    for name in students:
        if not is_student(models[name].pipe.unet):
            raise ValueError(f"{name} is no student: `flower-ddim train few-steps --teacher MODEL` makes one.")
    entries = [("teacher", models[teacher], number) for number in steps]
    entries += [("student", models[name], models[name].pipe.default_num_inference_steps) for name in students]
    rows = []
    for role, model, number in entries:
        values = [model.kid(number, seed) for seed in seeds]
        rows.append(
            {
                "role": role,
                "model": model.record["model"],
                "weights": model.record["weights"],
                "num_inference_steps": number,
                "network_evaluations": model.evaluations(model.pipe, number),
                "kid": {"mean": statistics.mean(values), "std": statistics.stdev(values)},
            }
        )
    times = [[model.seconds_per_image(number) for _, model, number in entries] for _ in range(ROUNDS)]
    for row, seconds in zip(rows, zip(*times, strict=True), strict=True):
        row["seconds_per_image"] = statistics.median(seconds)
    return {
        "num_images": num_images,
        "seeds": list(seeds),
        "batch_size": models[teacher].sampling["batch_size"],
        "dtype": models[teacher].record["dtype"],
        "threads": torch.get_num_threads(),
        "feature_extractor": reference.extractor,
        "reference": {"name": reference.source, "num_images": len(reference.features)},
        "rows": rows,
    }
