"""The model card of a pipeline folder: every number in it is read from a file that training or evaluation has written."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .. import PRETRAINED
from ..evaluation.metrics import few_pictures
from ..pipelines.portable import PortablePipeline
from ..storage.files import write_text
from ..storage.hub_cards import marked
from ..training.config import OF_STUDENTS, card_options
from .card_images import write_card_images
from .records import ModelRecords


# The Oxford flowers on the Hub: pictures alone, and with the names of the species.
FLOWERS = ("huggan/flowers-102-categories", "nelorth/oxford-flowers")
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
BOOK_IMAGES = 50 * 511 * 64  # epochs, steps of an epoch and batch of the book's recipe on the training split
TARGETS = {"epsilon": "the noise", "sample": "the picture", "v_prediction": "the velocity"}


def render_model_card(
    records: ModelRecords,
    name: str,
    repo_id: str | None = None,
    shipped: bool = False,
    dataset: str | None = None,
    license: str | None = None,
    images: Mapping[str, str] = {},
    variant: str | None = None,
) -> str:
    """Fills the template in; returns the text of the card, with its checksum unless it is that of a shipped model.

    Args:
        name: of the model, or of its folder if it is not on the Hub.
        repo_id: where it will be on the Hub, if it will.
        shipped: whether it comes with the package.
        dataset: the data set on the Hub that it was trained on, where the trainer was given a folder of its pictures.
        license: identifier of the licence of the weights, such as `"cc-by-4.0"`; by default what `training.yaml` says, if it does.
        images: addresses of the three pictures by [`IMAGES`], relative to the card; it shows either all or none.
        variant: what its weights are loaded by, such as `"fp16"`.
    """
    training = records.training or {}
    options = training.get("options", {})
    dataset, license = dataset or options.get("dataset_name"), license or options.get("license")
    card = ModelCard.from_template(
        _card_data(records, name, dataset, license),
        template_path=str(TEMPLATE),
        name=name,
        address=repo_id or name,
        on_hub=repo_id is not None,
        shipped=shipped,
        is_default=name == Path(PRETRAINED).name,
        load_options=f', variant="{variant}"' if variant else "",
        dataset=dataset,
        is_flowers=dataset in FLOWERS,
        license=license,
        images=images,
        parameters=f"{records.parameters:,}",
        size=_size(records.unet["sample_size"]),
        image_mean=_numbers(records.unet.get("image_mean", 0.5)),
        image_std=_numbers(records.unet.get("image_std", 0.5)),
        schedule=str(records.scheduler.get("schedule", "stock")).replace("_", " "),
        default_steps=records.unet.get("default_num_inference_steps", 20),
        classes=records.unet.get("class_names") or [],
        guidance=f"{records.unet.get('default_guidance_scale', 1.0):g}",
        student=_student(records, options),
        target=TARGETS[records.scheduler["prediction_type"]],
        training=_training(records, dataset),
        losses=_losses(records),
        metrics=_metrics(records.evaluation),
        protocol=_protocol(records.evaluation),
        recall=round(records.evaluation["recall"], 2) if records.evaluation else None,
        notes=(records.notes or "").strip(),
    )
    return f"{card}\n" if shipped else marked(str(card))


def _card_data(records: ModelRecords, name: str, dataset: str | None, license: str | None) -> ModelCardData:
    """The head of the card, which the Hub reads."""
    return ModelCardData(
        model_name=name,
        license=license,
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        datasets=[dataset] if dataset else None,
        tags=["diffusers", "ddim", *(["flowers"] if dataset in FLOWERS else [])],
        eval_results=_eval_results(records.evaluation, dataset),
    )


def write_model_card(pipe: PortablePipeline, folder: str | Path, records: str | Path | None = None, **render_options):
    """Writes `README.md` and its pictures into the folder of a saved pipeline.

    Args:
        pipe: the pipeline that is in the folder; the pictures are generated with it.
        records: folder with what training and evaluation have written, if there is any.
        render_options: see [`render_model_card`].
    """
    images = write_card_images(pipe, folder)
    card = render_model_card(ModelRecords.read(pipe, records), images=images, **render_options)
    write_text(Path(folder) / "README.md", card)


def _student(records: ModelRecords, options: dict) -> dict | None:
    """What a student was distilled from; `None` for other models."""
    guidance = records.unet.get("distilled_guidance_scale")
    if guidance is None:
        return None
    steps = records.unet.get("default_num_inference_steps", 20)
    return {"guidance": f"{guidance:g}", "teacher_steps": options.get("teacher_steps", 2 * steps)}


def _size(sample_size) -> str:
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    return f"{width}×{height}"


def _numbers(values) -> str:
    return ", ".join(f"{value:.3f}" for value in (values if isinstance(values, (list, tuple)) else [values]))


def _training(records: ModelRecords, dataset: str | None) -> dict | None:
    if records.training is None:
        return None
    options = records.training["options"]
    defaults = card_options()
    shown = _shown(options)
    words = [["--dataset_name", dataset] if dataset else ["--train_data_dir", "PICTURES"]]
    if continued := bool(options.get("init_from")):
        words.append(["--init_from", "EARLIER_MODEL"])  # and not its name, which may be a path
    if options.get("teacher"):
        words.append(["--teacher", "TEACHER"])
    words += [_words({name: value}) for name, value in shown.items() if value != defaults[name]]
    command = " \\\n    ".join(["flower-ddim train", *map(shlex.join, words), "--output_dir OUT"])
    earlier = [(change["until_step"], _shown(change["options"])) for change in records.training.get("history", [])]
    if earlier:
        lines = [f"# until step {until:,} with {shlex.join(_words(values))}\n" for until, values in earlier if values]
        command = "".join(lines) + command
    told = shown.keys() | {name for _, values in earlier for name in values}
    steps, images = records.steps, records.images
    growth_steps = sum(options.get("growth_steps") or [])
    return {
        "options": [(name, _course(name, options.get(name), earlier)) for name in defaults if name in told],
        "command": command,
        "steps": f"{steps:,}" if steps else None,
        "images": f"{images:,}",
        "pooled": f"{images // steps * growth_steps:,}" if steps and growth_steps else None,
        "share": f"{images / BOOK_IMAGES:.0%}" if dataset in FLOWERS and not continued else None,
        "continued": continued,
        "averaged": options.get("use_ema", True),
    }


def _shown(options: dict) -> dict:
    """The options that a card shows, but for paths, which are nobody else's business."""
    shown = {name: options[name] for name in card_options() if options.get(name) is not None}
    if not options.get("teacher"):
        shown = {name: value for name, value in shown.items() if name not in OF_STUDENTS}
    return {name: value for name, value in shown.items() if "/" not in str(value)}


def _words(options: dict) -> list[str]:
    """Options as words of a command line."""
    words = []
    for name, value in options.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _course(name: str, value, earlier: list[tuple[int, dict]]) -> str:
    """The value of an option, and those that it had before the training was resumed with another."""
    past = [f"{json.dumps(values[name])} until step {until:,}" for until, values in earlier if name in values]
    return ", ".join([*past, f"then {json.dumps(value)}" if past else json.dumps(value)])


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
        lines.append(f"Training loss over steps {since + 1:,} to {last[-1][0]:,}: {_loss(mean)} ({of}).")
    validations = [line["validation_loss_ema"] for line in records.log if "validation_loss_ema" in line]
    if validations:
        lines.append(f"Loss of the averaged weights on the validation pictures: {_loss(validations[-1])} ({of}).")
    return lines


def _loss(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"  # those of students are small


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
        + (f" **{few}**" if (few := few_pictures(evaluation["num_images"], reference["num_images"])) else "")
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
