"""Measures a model: `reference` once for the real pictures, then `score`, `steps` and `overfitting`.

`score_folder` compares images of any origin.

`accelerate launch` shares the work of `score` between processes; the numbers are the same.
"""

from pathlib import Path

import torch
from accelerate import PartialState

from .. import FlowerDDIMPipeline
from ..entrance import Parser
from ..evaluation.features import DEFAULT_EXTRACTOR, load_extractor
from ..evaluation.memorization import measure_memorization
from ..evaluation.metrics import KID_SUBSET_SIZE, Reference
from ..evaluation.noise_levels import loss_by_noise_level
from ..evaluation.reports import memorization_table, score_table, steps_table
from ..evaluation.scoring import (
    FEW_STEP_SOLVERS,
    STEPS,
    ScoredModel,
    make_reference,
    real_images,
    score_folder,
)
from ..sampling.solvers import SOLVERS
from ..storage.documents import check_blocks, replace_block
from ..storage.files import check_output, write_json
from ..training.pictures import pictures_of_training
from .options import add_format_option, add_model_option


def _parse(arguments, prog):
    parser = Parser(prog=prog, description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name, help):
        return verbs.add_parser(name, help=help, description=help)

    reference = verb("reference", "computes the features of real pictures, once")
    _data_options(reference)
    reference.add_argument("--resolution", type=int, default=64, help="side to which those of --data are cut")
    reference.add_argument("--output", default="reference.safetensors", help="file for the features")

    score = verb("score", "compares generated images with real ones: KID, Frechet distance, precision, recall")
    _model_options(score, num_images=1000)
    score.add_argument("--num_inference_steps", type=int, default=20, help="steps of the sampler")
    score.add_argument("--solver", default="ddim", choices=SOLVERS, help="sampler")
    _speed_options(score)
    _comparison_options(score, "metrics.json")

    folder = verb("score_folder", "compares the images of a folder with real ones, as `score` does those of a model")
    folder.add_argument("--images", required=True, help="folder of images, of whatever program")
    _comparison_options(folder, "metrics.json")

    steps = verb("steps", "measures KID against the number of steps, for every solver, from the same noise")
    _model_options(steps, num_images=1000)
    steps.add_argument("--steps", type=int, nargs="+", default=STEPS, help="numbers of steps")
    steps.add_argument("--solvers", nargs="+", default=FEW_STEP_SOLVERS, choices=SOLVERS, help="samplers")
    _speed_options(steps)
    _comparison_options(steps, "steps.json", "file for the numbers; the figure is beside it, with another ending")

    overfitting = verb("overfitting", "sets loss and nearest training images against those of unseen pictures")
    _model_options(overfitting, num_images=500)
    _data_options(overfitting)
    overfitting.add_argument("--train_split", default="train", help="split of --data that the model was trained on")
    overfitting.add_argument("--num_inference_steps", type=int, default=20, help="steps of the sampler")
    overfitting.add_argument("--num_pictures", type=int, help="real pictures for the losses; as many as are held out")
    overfitting.add_argument("--output_dir", default="overfitting", help="folder for numbers and figures")

    for options in (score, folder, steps, overfitting):
        options.add_argument("--document", help="Markdown file to update: its block <!-- VERB --> takes the table")
    for options in (steps, overfitting):
        add_format_option(options)
    return parser.parse_args(arguments)


def _data_options(options):
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="folder of Parquet files or pictures")
    source.add_argument(
        "--training", help="output_dir of a training, instead: the pictures that it kept for validation"
    )
    options.add_argument("--split", default="validation", help="split of --data that the model has not seen")
    options.add_argument("--cache_dir", help="where decoded pictures are cached; the datasets library's own place")
    options.add_argument(
        "--extractor",
        default=DEFAULT_EXTRACTOR,
        help="efficientnet_lite0, inception, or a vision model of transformers by folder or id",
    )


def _model_options(options, num_images):
    add_model_option(options)
    options.add_argument("--num_images", type=int, default=num_images, help="number of generated images")
    options.add_argument("--seed", type=int, default=0, help="seed of the first image; the next has the next seed")
    options.add_argument("--batch_size", type=int, default=32, help="images at a time in each process")


def _speed_options(options):
    options.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    options.add_argument("--compile", action="store_true", help="compile the network: a wait, then faster batches")


def _comparison_options(options, output, help="file for the numbers"):
    options.add_argument("--reference", default="reference.safetensors", help="file that `reference` has written")
    options.add_argument(
        "--kid_subset_size", type=int, default=KID_SUBSET_SIZE, help="pictures in each of KID's 100 subsets"
    )
    options.add_argument("--output", default=output, help=help)


def _reference(args):
    extractor = load_extractor(args.extractor, PartialState().device)
    if args.training:
        _, images, resolution = pictures_of_training(args.training)
        folder, part = args.training, "kept for validation"
    else:
        images = real_images(args.data, args.split, args.resolution, args.cache_dir)
        folder, part, resolution = args.data, f"split {args.split}", args.resolution
    found = make_reference(images, folder, part, resolution, extractor)
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
    if args.verb == "steps":
        return [Path(args.output).with_suffix(f".{args.image_format}")]
    names = ("loss_by_noise", "closest_pairs", "nearest_distances") if args.verb == "overfitting" else ()
    return [Path(args.output_dir, f"{name}.{args.image_format}") for name in names]


def _check_outputs(args):
    """Raises an OSError if a file cannot be written, and a ValueError if one would take the place of another."""
    outputs = [Path(args.output_dir, "overfitting.json") if args.verb == "overfitting" else Path(args.output)]
    outputs += _figures(args)
    for path in outputs:
        check_output(path)
    others = [Path(path) for name in ("document", "reference") if (path := getattr(args, name, None))]
    places = [path.resolve() for path in (*outputs, *others)]
    if twice := next((path for path in places if places.count(path) > 1), None):
        raise ValueError(f"{twice} would be two things at once: name another `--output`, such as {args.verb}.json.")
    if getattr(args, "document", None):  # `reference` measures nothing to put into one
        check_blocks(args.document, [args.verb])


def _scored_model(args, reference):
    names = ("num_images", "seed", "batch_size", "kid_subset_size", "compile")
    options = {name: getattr(args, name) for name in names}
    return ScoredModel(args.model, reference, dtype=getattr(torch, args.dtype), **options)


def _report(table, args, place):
    if args.document:
        replace_block(args.document, args.verb, table)
    print(table)
    print(f"The numbers are in {place}.")


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    verbs = {
        "reference": _reference,
        "score": _score,
        "score_folder": _score_images,
        "steps": _steps,
        "overfitting": _overfitting,
    }
    _check_outputs(args)
    verbs[args.verb](args)
