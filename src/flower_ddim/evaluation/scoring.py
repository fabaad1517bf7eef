"""Scores a model: generates images, computes their features, and compares these with those of real pictures."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..data.decoding import decode_images
from ..data.image_array import ImageArray
from ..data.labels import find_label_column
from ..data.sources import open_dataset
from ..pipelines.class_labels import ClassLabels
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..sampling.generate import generate_numbers, labels_in_proportion, load_with_checksum
from ..sampling.solvers import with_solver
from .features import FeatureExtractor, load_extractor
from .metrics import KID_SUBSET_SIZE, Reference, check_possible, compare, few_pictures, kernel_distance


logger = logging.getLogger(__name__)

STEPS = (1, 2, 5, 10, 20, 50, 100)
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
FEW_STEP_SOLVERS = ("ddim", "dpm++", "unipc")


def real_images(data_dir: str | Path, split: str, resolution: int, cache_dir: str | None = None) -> ImageArray:
    """Decodes one split of a folder of Parquet files or pictures, cropped to squares of `resolution` pixels."""
    return decode_images(open_dataset(data_dir=str(data_dir), split=split, cache_dir=cache_dir), resolution)


def class_counts(data_dir: str | Path, split: str, cache_dir: str | None = None) -> dict[str, int]:
    """How many pictures of a split have which class; empty if they have none."""
    dataset = open_dataset(data_dir=str(data_dir), split=split, cache_dir=cache_dir)
    try:
        column = find_label_column(dataset)
    except ValueError:
        return {}
    names = dataset.features[column].names
    return {names[i]: count for i, count in sorted(Counter(dataset[column]).items(), key=str) if i not in (None, -1)}


def real_features(images: ImageArray, extractor: FeatureExtractor, batch_size: int = 32) -> torch.Tensor:
    """Computes the features (N, D) of all pictures."""
    starts = tqdm(range(0, len(images), batch_size), desc="features", unit="batch")
    batches = (images[range(start, min(start + batch_size, len(images)))] for start in starts)
    return extractor.extract(torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in batches)


def make_reference(
    images: ImageArray,
    folder: str | Path,
    part: str,
    resolution: int,
    extractor: FeatureExtractor,
    class_counts: dict[str, int] | None = None,
) -> Reference:
    """Computes the features of real pictures, and names them after their folder and their part of it."""
    source = f"{Path(folder).resolve().name}, {part}, {resolution}×{resolution} pixels"
    return Reference(real_features(images, extractor), extractor.name, source, resolution, class_counts or {})


def generate_with_features(
    pipe: FlowerDDIMPipeline,
    extractor: FeatureExtractor,
    num_images: int,
    accelerator: Accelerator,
    seed: int = 0,
    batch_size: int = 32,
    class_labels: Sequence[int] | None = None,
    **options,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generates the images with the seeds `seed`, `seed` + 1, …; each process generates its share.

    Every process must call this, and gets all images, uint8 (N, C, H, W), and their features (N, D), in the order of the seeds.

    Args:
        class_labels: classes of the images, one each, for a model that knows classes.
        options: those of the pipeline, such as `num_inference_steps`.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    mine = range(rank, num_images, world)
    starts = range(0, len(mine), batch_size)
    images, features = [], []
    for start in tqdm(starts, desc="generating", unit="batch", leave=False, disable=rank > 0):
        numbers = mine[start : start + batch_size]
        if class_labels is not None:
            options["class_labels"] = [class_labels[i] for i in numbers]
        generated = generate_numbers(pipe, numbers, seed, **options)
        pixels = np.stack([np.atleast_3d(np.asarray(image)) for image in generated])
        images.append(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        features.append(extractor(images[-1]))
    # As objects, since the shares differ in length. A process without images adds nothing.
    shares = gather_object([(mine, torch.cat(images), torch.cat(features))] if images else [])
    order = torch.tensor([number for numbers, _, _ in shares for number in numbers]).argsort()
    return torch.cat([share[1] for share in shares])[order], torch.cat([share[2] for share in shares])[order]


def network_evaluations(pipe: FlowerDDIMPipeline, num_inference_steps: int) -> int:
    """How often the network is called for an image: solvers of second order call it at twice as many timesteps.

    It asks the scheduler, since under `accelerate launch` a process without images has not generated any.
    """
    pipe.scheduler.set_timesteps(num_inference_steps)
    return len(pipe.scheduler.timesteps)


def score_folder(folder: str, reference: Reference, kid_subset_size: int = KID_SUBSET_SIZE) -> dict:
    """Scores the pictures of a folder, cropped and resized to the size of the reference, see [`compare`]."""
    images = real_images(folder, "train", reference.resolution)
    check_possible(len(images), len(reference.features), kid_subset_size)
    if warning := few_pictures(len(images), len(reference.features)):
        logger.warning(warning)
    features = real_features(images, load_extractor(reference.extractor))
    return {"images": _name(folder), **compare(features, reference, kid_subset_size)}


class ScoredModel:
    """A model, and real pictures to compare its images with. Under `accelerate launch` processes share the work.

    Args:
        model: folder of a pipeline, or its id on the Hub.
        reference: the real pictures; its feature extractor serves for both sides.
        num_images, seed: it generates the images with the seeds `seed`, `seed` + 1, ….
        batch_size: number of images that each process generates at a time.
        dtype: dtype of the network while it generates.
        compile: whether to compile the network; `batch_size` should then divide the images of each process.
        kid_subset_size: pictures in each of KID's random subsets.
        guidance_scale: what the model recommends, if `None`. A model that knows classes generates them in the proportions of the
            reference, or evenly where that does not tell.

    Raises:
        ValueError: before it generates any, if there are too few images for the scores, or the reference has another size.
    """

    def __init__(
        self,
        model: str,
        reference: Reference,
        num_images: int,
        seed: int = 0,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        kid_subset_size: int = KID_SUBSET_SIZE,
        guidance_scale: float | None = None,
    ):
        check_possible(num_images, len(reference.features), kid_subset_size)
        self.reference, self.num_images, self.kid_subset_size = reference, num_images, kid_subset_size
        self.sampling = {"seed": seed, "batch_size": batch_size}
        self.accelerator = Accelerator()
        self.pipe, checksum = load_with_checksum(model, dtype, self.accelerator.device, compile)
        height, width = self.pipe.latent_shape[1:]
        if (height, width) != (reference.resolution,) * 2:
            raise ValueError(
                f"{model} makes pictures of {width}×{height} pixels, but the reference is of {reference.resolution}: make another "
                f"with `flower-ddim evaluate reference --resolution {height}`."
            )
        self.record = {
            "model": _name(model),
            "weights": checksum,
            "seed": seed,
            "dtype": str(dtype).removeprefix("torch."),
        }
        if self.pipe.unet.config.get("num_class_embeds"):
            labels = _labels(self.pipe, reference, num_images)
            scale = ClassLabels(self.pipe.unet).guidance_scale(torch.tensor(labels), guidance_scale)
            self.sampling |= {"class_labels": labels, "guidance_scale": scale}
            self.record["guidance_scale"] = scale
        self.extractor = load_extractor(reference.extractor, self.accelerator.device)

    def score(self, num_inference_steps: int | None = None, solver: str = "ddim") -> dict:
        """Computes all scores, see [`compare`], and says how it made the images. `solver` is one of [`SOLVERS`]."""
        num_inference_steps = num_inference_steps or self.pipe.default_num_inference_steps
        warning = few_pictures(self.num_images, len(self.reference.features))
        if warning and self.accelerator.is_main_process:
            logger.warning(warning)
        pipe = with_solver(self.pipe, solver)
        start = time.perf_counter()
        features = self._features(pipe, num_inference_steps)
        return {
            **self.record,
            "num_inference_steps": num_inference_steps,
            "network_evaluations": self.evaluations(pipe, num_inference_steps),
            "scheduler": type(pipe.scheduler).__name__,
            "seconds": round(time.perf_counter() - start, 3),
            **compare(features, self.reference, self.kid_subset_size),
        }

    def kid(self, num_inference_steps: int, seed: int) -> float:
        """KID of the images with the seeds `seed`, `seed` + 1, …, in place of those of the constructor."""
        features = self._features(self.pipe, num_inference_steps, seed=seed)
        return kernel_distance(features, self.reference.features, subset_size=self.kid_subset_size)["mean"]

    def seconds_per_image(self, num_inference_steps: int) -> float:
        """Time of a batch of images by the clock, divided by their number."""
        count = min(self.sampling["batch_size"], self.num_images)
        labels = self.sampling.get("class_labels")
        options = {name: value for name, value in self.sampling.items() if name == "guidance_scale"}
        options |= {"class_labels": labels[:count]} if labels else {}
        start = time.perf_counter()
        generate_numbers(self.pipe, range(count), 0, num_inference_steps=num_inference_steps, **options)
        return (time.perf_counter() - start) / count

    def quality_against_steps(self, steps: Sequence[int] = STEPS, solvers: Sequence[str] = FEW_STEP_SOLVERS) -> dict:
        """Measures KID for numbers of steps and solvers, always from the same noise.

        Returns:
            The settings, and `rows` of `solver`, `num_inference_steps`, `network_evaluations` per image and `kid`.
        """
        rows = []
        for solver in solvers:
            pipe = with_solver(self.pipe, solver)
            for number in steps:
                features = self._features(pipe, number)
                kid = kernel_distance(features, self.reference.features, subset_size=self.kid_subset_size)
                counts = {"num_inference_steps": number, "network_evaluations": self.evaluations(pipe, number)}
                rows.append({"solver": solver, **counts, "kid": kid})
        return self._settings() | {"rows": rows}

    def quality_against_guidance(
        self, scales: Sequence[float], judge: Callable[[torch.Tensor, np.ndarray], dict] | None = None
    ) -> dict:
        """Scores the images of guidance scales, always from the same noise and of the same classes.

        Args:
            judge: adds to each row what it makes of the features (N, D) and the classes (N,) of the images.

        Returns:
            The settings, and `rows` of `guidance_scale`, the scores of [`compare`], and what the judge adds.

        Raises:
            ValueError: for a model without classes.
        """
        if "class_labels" not in self.sampling:
            raise ValueError(
                f"{self.record['model']} knows no classes, so it has no guidance: name another `--model`."
            )
        steps, rows = self.pipe.default_num_inference_steps, []
        for scale in scales:
            features = self._features(self.pipe, steps, guidance_scale=scale)
            scores = compare(features, self.reference, self.kid_subset_size)
            row = {name: scores[name] for name in ("kid", "frechet_distance", "precision", "recall")}
            judged = judge(features, np.array(self.sampling["class_labels"])) if judge else {}
            rows.append({"guidance_scale": scale, **row, **judged})
        settings = self._settings()
        settings.pop("guidance_scale")  # each row has its own
        return settings | {"num_inference_steps": steps, "rows": rows}

    def _settings(self) -> dict:
        """What all rows of a table have in common."""
        return {
            **self.record,
            "num_images": self.num_images,
            "feature_extractor": self.reference.extractor,
            "reference": {"name": self.reference.source, "num_images": len(self.reference.features)},
        }

    def evaluations(self, pipe: FlowerDDIMPipeline, num_inference_steps: int) -> int:
        """Network evaluations per image, of which guidance takes two for every one."""
        return network_evaluations(pipe, num_inference_steps) * (1 if self.record.get("guidance_scale", 1) == 1 else 2)

    def _features(self, pipe: FlowerDDIMPipeline, num_inference_steps: int, **changes) -> torch.Tensor:
        options = self.sampling | {"num_inference_steps": num_inference_steps} | changes
        return generate_with_features(pipe, self.extractor, self.num_images, self.accelerator, **options)[1]


def _labels(pipe: FlowerDDIMPipeline, reference: Reference, num_images: int) -> list[int]:
    """Classes in the proportions of the reference, as far as the model knows them; evenly if it knows none of them."""
    counts = [reference.class_counts.get(name, 0) for name in pipe.labels]
    if not any(counts):
        counts = [1] * pipe.unet.config["num_class_embeds"]
    return labels_in_proportion(counts, num_images)


def _name(model: str) -> str:
    """The name of a model for a record that others read. It must not say where the folder lies."""
    return Path(model).resolve().name if Path(model).is_dir() else model
