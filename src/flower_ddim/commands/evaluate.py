"""Measures a model: `reference` once for the real pictures, then `score`, `steps`, `students`,
`overfitting`, `classes` and `guidance`.

`score_folder` compares images of any origin, `scores` sets what both have written side by side.

`accelerate launch` shares the work of `score` between processes; the numbers are the same.
"""

import json
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState

from .. import FlowerDDIMPipeline
from ..evaluation.features import load_extractor
from ..evaluation.memorization import measure_memorization
from ..evaluation.metrics import Reference
from ..evaluation.noise_levels import loss_by_noise_level
from ..evaluation.reports import (
    classes_table,
    guidance_table,
    memorization_table,
    score_table,
    scores_table,
    steps_table,
    students_table,
)
from ..evaluation.scoring import (
    ScoredModel,
    class_counts,
    make_reference,
    real_features,
    real_images,
    score_folder,
)
from ..evaluation.students import compare_students
from ..sampling.generate import noise_of_seeds
from ..storage.documents import check_blocks, replace_block
from ..storage.files import check_output, write_json
from ..storage.json_objects import read_json_object
from ..training.pictures import pictures_of_training
from .evaluate_options import parse


def _reference(args):
    extractor = load_extractor(args.extractor, PartialState().device)
    if args.training:
        _, images, resolution = pictures_of_training(args.training)
        folder, part = args.training, "kept for validation"
        counts = None
    else:
        images = real_images(args.data, args.split, args.resolution, args.cache_dir)
        folder, part, resolution = args.data, f"split {args.split}", args.resolution
        counts = class_counts(args.data, args.split, args.cache_dir)
    found = make_reference(images, folder, part, resolution, extractor, counts)
    found.save(args.output)
    print(
        f"{args.output} holds the features of {len(found.features)} pictures ({found.source}) from {found.extractor}."
    )


def _score(args):
    model = _scored_model(args, Reference.load(args.reference))
    _report_score(model.score(args.num_inference_steps, args.solver), args)


def _score_images(args):
    reference = Reference.load(args.reference)
    _report_score(score_folder(args.images, reference, args.kid_subset_size), args)


def _report_score(result, args):
    if PartialState().is_main_process:
        write_json(args.output, result)
        _report(score_table(result), args, args.output)


def _steps(args):
    from ..evaluation.plots import quality_by_steps, write_figure

    result = _scored_model(args, Reference.load(args.reference)).quality_against_steps(args.steps, args.solvers)
    if PartialState().is_main_process:
        write_json(args.output, result)
        write_figure(quality_by_steps(result["rows"]), _figures(args)[0])
        _report(steps_table(result), args, args.output)


def _students(args):
    from ..evaluation.plots import quality_by_steps, write_figure
    from ..figures import in_few_steps

    options = {name: getattr(args, name) for name in ("num_images", "batch_size", "kid_subset_size", "compile")}
    options["dtype"] = getattr(torch, args.dtype)
    reference = Reference.load(args.reference)
    result = compare_students(args.model, args.students, reference, args.steps, args.seeds, **options)
    if not PartialState().is_main_process:
        return
    write_json(args.output, result)
    curve, grid = _figures(args)
    write_figure(quality_by_steps(result["rows"], by="role"), curve)
    models = {name: FlowerDDIMPipeline.from_pretrained(name) for name in (args.model, *args.students)}
    for pipe in models.values():
        pipe.set_progress_bar_config(disable=True)
    rows = [("teacher", models[args.model], number) for number in args.steps]
    rows += [("student", models[name], models[name].default_num_inference_steps) for name in args.students]
    write_figure(in_few_steps(rows, noise_of_seeds(models[args.model], range(args.seeds[0], args.seeds[0] + 8))), grid)
    _report(students_table(result), args, args.output)


def _overfitting(args):
    from ..evaluation.plots import closest_pairs, loss_by_noise, nearest_distances, write_figure

    pipe = FlowerDDIMPipeline.from_pretrained(args.model).to(PartialState().device)
    pipe.set_progress_bar_config(disable=True)
    extractor = load_extractor(args.extractor, pipe.device)
    if args.training:
        training, held_out, _ = pictures_of_training(args.training)
    else:
        splits, side = (args.train_split, args.split), pipe.latent_shape[1]
        training, held_out = (real_images(args.data, split, side, args.cache_dir) for split in splits)
    options = {"seed": args.seed, "batch_size": args.batch_size}
    # As many training pictures as held-out ones, so that both curves have the same errors.
    count = args.num_pictures or len(held_out)
    curves = {
        "training": loss_by_noise_level(pipe, training, num_images=count, **options),
        "held out": loss_by_noise_level(pipe, held_out, num_images=count, **options),
    }
    memorization = measure_memorization(
        pipe, training, held_out, extractor, args.num_images, args.num_inference_steps, **options
    )
    if PartialState().is_main_process:
        folder = Path(args.output_dir)
        write_json(folder / "overfitting.json", {"loss_by_noise_level": curves, "memorization": memorization.report})
        figures = (
            loss_by_noise(curves),
            closest_pairs(memorization.pairs),
            nearest_distances(memorization.distances),
        )
        for path, figure in zip(_figures(args), figures, strict=True):
            write_figure(figure, path)
        _report(memorization_table(memorization.report), args, folder)


def _figures(args) -> list[Path]:
    """The files of the figures that a verb draws."""
    if args.verb in ("steps", "students"):
        curve = Path(args.output).with_suffix(f".{args.image_format}")
        return [curve] if args.verb == "steps" else [curve, curve.with_stem(f"{curve.stem}_samples")]
    names = ("loss_by_noise", "closest_pairs", "nearest_distances") if args.verb == "overfitting" else ()
    return [Path(args.output_dir, f"{name}.{args.image_format}") for name in names]


def _check_outputs(args):
    """Raises an OSError if a file cannot be written, and a ValueError if one would take the place of another."""
    outputs = [Path(args.output)] if getattr(args, "output", None) else []
    outputs += [Path(args.output_dir, "overfitting.json")] if args.verb == "overfitting" else []
    outputs += _figures(args)
    for path in outputs:
        check_output(path)
    others = [Path(path) for name in ("document", "reference") if (path := getattr(args, name, None))]
    places = [path.resolve() for path in (*outputs, *others)]
    if twice := next((path for path in places if places.count(path) > 1), None):
        raise ValueError(f"{twice} would be two things at once: name another `--output`, such as {args.verb}.json.")
    if getattr(args, "document", None):  # `reference` measures nothing to put into one
        check_blocks(args.document, [args.verb])


def _classes(args):
    from ..evaluation.class_scores import measure_classes  # needs scikit-learn

    pipe = FlowerDDIMPipeline.from_pretrained(args.model).to(PartialState().device)
    pipe.set_progress_bar_config(disable=True)
    _check_has_names(args, pipe)
    training, held_out = (_labelled(args, pipe, split) for split in (args.train_split, args.split))
    names = ("num_images", "seed", "batch_size", "num_inference_steps", "guidance_scale")
    options = {name: getattr(args, name) for name in names}
    result = measure_classes(pipe, training, held_out, load_extractor(args.extractor, pipe.device), **options)
    if PartialState().is_main_process:
        write_json(args.output, result)
        _report(classes_table(result), args, args.output)


def _guidance(args):
    model, judge = _scored_model(args, Reference.load(args.reference)), None
    if args.data:
        _check_has_names(args, model.pipe)
        from ..evaluation.class_scores import fit_classifier, named_right

        images, labels = _labelled(args, model.pipe, args.train_split)
        judge = partial(named_right, fit_classifier(real_features(images, model.extractor, args.batch_size), labels))
    result = model.quality_against_guidance(args.scales, judge)
    if PartialState().is_main_process:
        write_json(args.output, result)
        _report(guidance_table(result), args, args.output)


def _check_has_names(args, pipe):
    if not pipe.labels:
        raise ValueError(
            f"{args.model} knows no classes by name: name another `--model`, such as flower-ddim-64-names."
        )


def _scores(args):
    table = scores_table([_score_of_file(path) for path in args.files])
    if args.document:
        replace_block(args.document, args.verb, table)
    print(table)


def _score_of_file(path):
    try:
        score = read_json_object(path)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} cannot be read ({error}): let `score` write it again.") from error
    if not {"kid", "frechet_distance", "precision", "recall"} <= score.keys():
        raise ValueError(f"{path} is no score: name files that `score` or `score_folder` has written.")
    return score


def _labelled(args, pipe, split):
    from ..evaluation.class_scores import labelled_images

    place = {"label_column": args.label_column, "cache_dir": args.cache_dir}
    return labelled_images(args.data, split, pipe.latent_shape[1], list(pipe.labels), **place)


def _scored_model(args, reference):
    names = ("num_images", "seed", "batch_size", "kid_subset_size", "compile")
    options = {name: getattr(args, name) for name in names} | {"guidance_scale": getattr(args, "guidance_scale", None)}
    return ScoredModel(args.model, reference, dtype=getattr(torch, args.dtype), **options)


def _report(table, args, place):
    if args.document:
        replace_block(args.document, args.verb, table)
    print(table)
    print(f"The numbers are in {place}.")


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = parse(arguments, prog, __doc__)
    verbs = {
        "reference": _reference,
        "score": _score,
        "score_folder": _score_images,
        "steps": _steps,
        "students": _students,
        "overfitting": _overfitting,
        "classes": _classes,
        "guidance": _guidance,
        "scores": _scores,
    }
    _check_outputs(args)
    verbs[args.verb](args)
