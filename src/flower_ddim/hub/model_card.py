"""The model card of a pipeline folder: every number in it is read from a file that training or evaluation has written."""

import json
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePath

import yaml
from diffusers.utils import make_image_grid
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..pipelines.portable import PortablePipeline
from ..sampling.generate import COMPARED_STEPS, noise_of_seeds
from ..storage.checksums import network_weights, weights_checksum
from ..storage.files import read_metrics
from ..training.config import card_options


logger = logging.getLogger(__name__)

FLOWERS = "huggan/flowers-102-categories"
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
IMAGES = {"samples": "samples.png", "steps": "steps.png", "interpolation": "interpolation.png"}
BOOK_IMAGES = 50 * 511 * 64  # epochs, steps of an epoch and batch of the book's recipe on the training split
TARGETS = {"epsilon": "the noise", "sample": "the picture", "v_prediction": "the velocity"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # kept with the weights, but not trained


@dataclass
class ModelRecords:
    """What is known of a model: the folder of the pipeline, and beside `model_index.json` what was written about it.

    `training.yaml` and `metrics.jsonl` are the trainer's, `metrics.json` is the evaluation's of the same weights, and
    `notes.md` is whatever its makers have to say; any of these may be missing.
    """

    unet: dict
    scheduler: dict
    parameters: int
    training: dict | None
    log: list[dict]
    evaluation: dict | None
    notes: str | None

    @classmethod
    def read(cls, pipeline: str | Path, records: str | Path | None) -> "ModelRecords":
        """Reads the pipeline's configuration in one folder, and what was written about it in that or another one.

        Raises:
            OSError: if a file of the pipeline is missing.
            ValueError: if a file is damaged.
        """
        pipeline, records = Path(pipeline), Path(records or pipeline)

        def optional(name: str) -> str | None:
            file = records / name
            return file.read_text(encoding="utf-8") if file.is_file() else None

        weights = network_weights(pipeline)
        evaluation = json.loads(optional("metrics.json") or "null")
        # Only the scores of a model, not of a folder of pictures, say of which weights they are.
        if evaluation and "weights" in evaluation and evaluation["weights"] != weights_checksum(weights):
            logger.warning(f"{records / 'metrics.json'} is of other weights and left out: score the model again.")
            evaluation = None
        return cls(
            unet=json.loads((pipeline / "unet" / "config.json").read_text()),
            scheduler=json.loads((pipeline / "scheduler" / "scheduler_config.json").read_text()),
            parameters=sum(tensor.numel() for name, tensor in weights.items() if not name.endswith(STATISTICS)),
            training=yaml.safe_load(optional("training.yaml") or "null"),
            log=read_metrics(records / "metrics.jsonl") if (records / "metrics.jsonl").is_file() else [],
            evaluation=evaluation,
            notes=optional("notes.md"),
        )


def render_model_card(
    records: ModelRecords,
    name: str,
    repo_id: str | None = None,
    dataset: str | None = None,
    license: str | None = None,
    images: dict[str, str] = IMAGES,
) -> ModelCard:
    """Fills the template in.

    Args:
        name: of the model.
        repo_id: where it will be on the Hub; `None` is the model that comes with the package.
        dataset: the data set on the Hub that it was trained on, where the trainer was given a folder of its pictures.
        license: identifier of the licence of the weights, such as `"cc-by-4.0"`; by default what `training.yaml` says, if it does.
        images: addresses of the three pictures, relative to the card.
    """
    training = records.training or {}
    options = training.get("options", {})
    dataset, license = dataset or options.get("dataset_name"), license or options.get("license")
    size = records.unet["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    card_data = ModelCardData(
        model_name=name,
        license=license,
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        datasets=[dataset] if dataset else None,
        tags=["diffusers", "ddim", *(["flowers"] if dataset == FLOWERS else [])],
        eval_results=_eval_results(records.evaluation, dataset),
    )
    return ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        name=name,
        repo_id=repo_id,
        shipped=repo_id is None,
        dataset=dataset,
        is_flowers=dataset == FLOWERS,
        license=license,
        images=images,
        parameters=f"{records.parameters:,}",
        size=f"{width}×{height}",
        image_mean=_numbers(records.unet.get("image_mean", 0.5)),
        image_std=_numbers(records.unet.get("image_std", 0.5)),
        schedule=str(records.unet.get("schedule", "stock")).replace("_", " "),
        target=TARGETS[records.scheduler["prediction_type"]],
        training=_training(records, dataset),
        losses=_losses(records),
        metrics=_metrics(records.evaluation),
        protocol=_protocol(records.evaluation),
        recall=round(records.evaluation["recall"], 2) if records.evaluation else None,
        notes=(records.notes or "").strip(),
    )


def write_model_card(pipe: PortablePipeline, folder: str | Path, records: str | Path | None = None, **render_options):
    """Writes `README.md` and its pictures into the folder of a saved pipeline.

    Args:
        pipe: the pipeline that is in the folder; the pictures are generated with it.
        records: folder with what training and evaluation have written, if that is another one.
        render_options: see [`render_model_card`].
    """
    quiet = type(pipe)(pipe.unet, pipe.scheduler)
    quiet.set_progress_bar_config(disable=True)
    for name, image in _card_images(quiet).items():
        image.save(Path(folder) / IMAGES[name])
    card = render_model_card(ModelRecords.read(folder, records), **render_options)
    (Path(folder) / "README.md").write_text(f"{card}\n", encoding="utf-8")


def _card_images(pipe: PortablePipeline) -> dict:
    """A grid of samples, the same noise in different numbers of steps, and interpolations."""
    latents = noise_of_seeds(pipe, range(16))
    cell = max(96, *pipe.latent_shape[1:])
    samples = pipe(latents=latents).images
    columns = [pipe(latents=latents[:4], num_inference_steps=number).images for number in COMPARED_STEPS]
    by_steps = [image for row in zip(*columns, strict=True) for image in row]
    strips = [image for i in range(0, 6, 2) for image in pipe.interpolate(*latents[i : i + 2], num_images=11).images]
    return {
        "samples": make_image_grid(samples, rows=2, cols=8, resize=cell),
        "steps": make_image_grid(by_steps, rows=4, cols=len(COMPARED_STEPS), resize=cell),
        "interpolation": make_image_grid(strips, rows=3, cols=11, resize=cell),
    }


def _numbers(values) -> str:
    return ", ".join(f"{value:.3f}" for value in (values if isinstance(values, list) else [values]))


def _training(records: ModelRecords, dataset: str | None) -> dict | None:
    if records.training is None:
        return None
    options = records.training["options"]
    defaults = card_options()
    shown = {name: options[name] for name in defaults if options.get(name) is not None}
    shown = {name: value for name, value in shown.items() if "/" not in str(value)}  # a path is nobody else's business
    words = [["--dataset_name", dataset] if dataset else ["--train_data_dir", "PICTURES"]]
    if continued := bool(options.get("init_from")):
        words.append(["--init_from", "EARLIER_MODEL"])  # and not its name, which may be a path
    for name, value in shown.items():
        if value != defaults[name]:
            words.append([f"--{name}", *map(str, value if isinstance(value, list) else [value])])
    command = " \\\n    ".join(["python scripts/train.py", *map(shlex.join, words), "--output_dir OUT"])
    last = records.log[-1] if records.log else {}
    images = last.get("images", 0)
    growth_steps = sum(options.get("growth_steps") or [])
    return {
        "options": [(name, json.dumps(value)) for name, value in shown.items()],
        "command": command,
        "steps": f"{last['step']:,}" if last else None,
        "images": f"{images:,}",
        "pooled": f"{images // last['step'] * growth_steps:,}" if last and growth_steps else None,
        "share": f"{images / BOOK_IMAGES:.0%}" if dataset == FLOWERS and not continued else None,
        "continued": continued,
        "averaged": options.get("use_ema", True),
    }


def _losses(records: ModelRecords) -> list[str]:
    """The losses at the end of the training, each as a sentence that says what it is of."""
    options = (records.training or {}).get("options", {})
    error = {"mae": "mean absolute", "mse": "mean squared"}.get(options.get("loss"), "mean")
    target = TARGETS[records.scheduler["prediction_type"]].removeprefix("the ")
    of = f"{error} error of the {target}"
    lines = []
    losses = [(line["step"], line["loss"]) for line in records.log if "loss" in line]
    if losses:
        last = losses[-max(1, len(losses) // 10) :]
        since = losses[-len(last) - 1][0] if len(losses) > len(last) else 0
        mean = sum(loss for _, loss in last) / len(last)
        lines.append(f"Training loss over steps {since + 1:,} to {last[-1][0]:,}: {mean:.3f} ({of}).")
    validations = [line["validation_loss_ema"] for line in records.log if "validation_loss_ema" in line]
    if validations:
        lines.append(f"Loss of the averaged weights on the validation pictures: {validations[-1]:.3f} ({of}).")
    return lines


def _metrics(evaluation: dict | None) -> list[tuple[str, str]]:
    if evaluation is None:
        return []
    kid = evaluation["kid"]
    return [
        ("KID × 1000", f"{1000 * kid['mean']:.2f} ± {1000 * kid['std']:.2f}"),
        ("Fréchet distance", f"{evaluation['frechet_distance']:.2f}"),
        ("precision", f"{evaluation['precision']:.3f}"),
        ("recall", f"{evaluation['recall']:.3f}"),
    ]


def _protocol(evaluation: dict | None) -> str:
    if evaluation is None:
        return ""
    reference, kid = evaluation["reference"], evaluation["kid"]
    how = ""  # is not known of a folder of pictures
    if "scheduler" in evaluation:
        steps = f"{evaluation['num_inference_steps']} steps of {evaluation['scheduler']}"
        how = f" (seeds from {evaluation['seed']}, {steps})"
    return (
        f"{evaluation['num_images']:,} generated pictures{how} against "
        f"{reference['num_images']:,} of {_reference_name(evaluation)}, in features of `{evaluation['feature_extractor']}`; "
        f"KID over {kid['subsets']} subsets of {kid['subset_size']}."
    )


def _reference_name(evaluation: dict) -> str:
    """What the generated pictures were compared with; of a folder, the last part of its path, which may say more than it should."""
    name = evaluation["reference"]["name"]
    return PurePath(name).name if name.startswith(("/", ".", "~")) else name


def _eval_results(evaluation: dict | None, dataset: str | None) -> list[EvalResult] | None:
    if evaluation is None:
        return None
    described = f"{evaluation['num_images']} images, {evaluation['feature_extractor']}"
    values = {
        "KID × 1000": ("kid", round(1000 * evaluation["kid"]["mean"], 3)),
        "Fréchet distance": ("frechet-distance", round(evaluation["frechet_distance"], 3)),
        "precision": ("precision", round(evaluation["precision"], 4)),
        "recall": ("recall", round(evaluation["recall"], 4)),
    }
    return [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=dataset or _reference_name(evaluation),
            dataset_name=_reference_name(evaluation),
            metric_type=kind,
            metric_value=value,
            metric_name=f"{name} ({described})",
        )
        for name, (kind, value) in values.items()
    ]
