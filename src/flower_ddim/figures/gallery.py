"""Draws figures by name into files: knows which there are, and the data of each."""

import re
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import torch
from accelerate import PartialState
from datasets import Image

from .. import PRETRAINED, figures
from ..data.decoding import open_encoded
from ..data.sources import image_column, open_dataset
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..sampling.generate import noise_of_seeds
from ..storage.files import check_output, replacing, write_text


class Gallery:
    """Draws figures by name: every name in `NAMES` is a method that writes the files of that figure.

    Args:
        output_dir: folder of the figures.
        model: folder of a pipeline, or its id on the Hub.
        data: folder of Parquet files or pictures.
        split: which split of the data to show.
        metrics: files `metrics.jsonl` of trainings, for `loss_curve`.
        images_per_epoch: images of an epoch, for a loss curve over epochs instead of images.
        checkpoints: folders of pipelines in the order of their training, or grids of its samples, for `samples_by_epoch`.
        num_inversions: number of pictures for the table of inversions.
        seed: seed of the first generated image; the next one has the next seed.
        image_format: ending of the files: png, webp, svg, pdf or another one that matplotlib knows.
    """

    NAMES = (
        "dataset",
        "schedules",
        "corruption",
        "embedding",
        "loss_curve",
        "samples_by_epoch",
        "steps",
        "interpolation",
        "classes",
        "every_class",
        "class_interpolation",
        "real_interpolation",
        "inversion",
        "trajectory",
    )

    def __init__(
        self,
        output_dir: str,
        model: str = PRETRAINED,
        data: str | None = None,
        split: str = "train",
        metrics: Sequence[str] = (),
        images_per_epoch: int | None = None,
        checkpoints: Sequence[str] = (),
        num_inversions: int = 16,
        seed: int = 0,
        image_format: str = "png",
    ):
        self.output_dir = Path(output_dir)
        self.model, self.data, self.split = model, data, split
        self.metrics, self.images_per_epoch, self.checkpoints = metrics, images_per_epoch, checkpoints
        self.num_inversions, self.seed, self.image_format = num_inversions, seed, image_format
        self._pipe = self._dataset = None

    def draw(self, names: Sequence[str] | None = None):
        """Draws the figures of these names, or all that have their data.

        Raises:
            ValueError: for an unknown name, or for a figure without its data.
        """
        given = {"loss_curve": self.metrics, "samples_by_epoch": self.checkpoints}
        given |= dict.fromkeys(("dataset", "corruption", "real_interpolation", "inversion"), self.data)
        for name in names or ():
            if name not in self.NAMES:
                raise ValueError(f"There is no figure {name!r}; there are {', '.join(self.NAMES)}.")
            if not given.get(name, True):
                needed = {"loss_curve": "metrics", "samples_by_epoch": "checkpoints"}.get(name, "data")
                raise ValueError(f"The figure {name!r} is drawn from `{needed}`: give some.")
        if not names and not self.pipe.labels:
            given |= dict.fromkeys(("classes", "every_class", "class_interpolation"))
        names = [name for name in names or self.NAMES if given.get(name, True)]
        for name in names:
            check_output(self._path(name))
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for name in names:
            getattr(self, name)()

    def dataset(self):
        self._save("dataset", figures.dataset(figures.real_pixels(self.pipe, self._pictures(40)), columns=10))

    def schedules(self):
        self._save("schedules", figures.schedules())

    def corruption(self):
        self._save("corruption", figures.corruption(figures.real_pixels(self.pipe, self._pictures(1))[0]))

    def embedding(self):
        self._save("embedding", figures.embedding())

    def loss_curve(self):
        self._save("loss_curve", figures.loss_curve(self.metrics, self.images_per_epoch))

    def samples_by_epoch(self):
        paths, count = [Path(path) for path in self.checkpoints], 10
        are_files = {path.is_file() for path in paths}
        if len(are_files) == 2:
            raise ValueError("`checkpoints` are folders and files: give either pipeline folders or sample grids.")
        if are_files == {True}:
            rows = [figures.cut_grid(PIL.Image.open(path), *self.pipe.latent_shape[1:])[:count] for path in paths]
            figure = figures.image_grid(rows, row_labels=[re.sub("-0*", " ", path.stem) for path in paths])
        else:
            pipes = ((path.name, self._load(str(path))) for path in paths)
            figure = figures.samples_by_epoch(pipes, self._latents(count))
        self._save("samples_by_epoch", figure)

    def steps(self):
        self._save("steps", figures.steps(self.pipe, self._latents(6)))

    def interpolation(self):
        latents = self._latents(10)
        self._save(
            "interpolation", figures.interpolation(self.pipe, list(zip(latents[::2], latents[1::2], strict=True)))
        )

    def classes(self):
        self._save("classes", figures.classes(self.pipe, self._latents(4), self._class_names(12)))

    def every_class(self):
        self._class_names(2)  # or it says what is needed
        self._save("every_class", figures.every_class(self.pipe, self._latents(len(self.pipe.labels))))

    def class_interpolation(self):
        names = self._class_names(10)
        pairs = list(zip(names[::2], names[1::2], strict=True))
        self._save("class_interpolation", figures.class_interpolation(self.pipe, self._latents(len(pairs)), pairs))

    def _class_names(self, count: int) -> list[str]:
        """Names of an even number of classes, evenly chosen."""
        names = list(self.pipe.labels)
        if len(names) < 2:
            raise ValueError("This figure needs a model of several classes with names: give one as `model`.")
        count = min(count, len(names) // 2 * 2)
        return [names[i * len(names) // count] for i in range(count)]

    def real_interpolation(self):
        self._save("real_interpolation", figures.real_interpolation(self.pipe, self._pictures(4)))

    def inversion(self):
        self._save("inversion", figures.inversion(self.pipe, self._pictures(8)))
        path = self.output_dir / "inversion.md"
        write_text(path, figures.inversion_table(self.pipe, self._pictures(self.num_inversions)))
        print(path, flush=True)

    def trajectory(self):
        noisy, predicted = figures.trajectory_states(self.pipe, self._latents(1), num_inference_steps=40)
        self._save("trajectory", figures.trajectory(noisy, predicted))
        path = self.output_dir / "trajectory_animation.webp"
        figures.save_animation(figures.trajectory_frames(noisy, predicted), path, frames_per_second=8, size=128)
        print(path, flush=True)

    @property
    def pipe(self) -> FlowerDDIMPipeline:
        if self._pipe is None:
            self._pipe = self._load(self.model)
        return self._pipe

    @staticmethod
    def _load(folder: str) -> FlowerDDIMPipeline:
        pipe = FlowerDDIMPipeline.from_pretrained(folder).to(PartialState().device)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _latents(self, count: int) -> torch.Tensor:
        return noise_of_seeds(self.pipe, range(self.seed, self.seed + count))

    def _pictures(self, count: int) -> list:
        """Chooses pictures evenly over the data set."""
        if self._dataset is None:
            self._dataset = open_dataset(data_dir=self.data, split=self.split)
        count = min(count, len(self._dataset))
        column = image_column(self._dataset)
        encoded = self._dataset.cast_column(column, Image(decode=False))
        return [open_encoded(encoded[i * len(encoded) // count][column]) for i in range(count)]

    def _path(self, name: str) -> Path:
        return self.output_dir / f"{name}.{self.image_format}"

    def _save(self, name: str, figure):
        path = self._path(name)
        options = {"pil_kwargs": {"quality": 80, "method": 6}} if self.image_format == "webp" else {}
        with replacing(path) as unfinished:
            figure.savefig(unfinished, **options)
        print(path, flush=True)
