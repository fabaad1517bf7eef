"""Writes the results of evaluations as Markdown tables, from dictionaries as they are in JSON files."""

from collections.abc import Sequence

from ..storage.documents import markdown_table
from .metrics import few_pictures


def score_table(score: dict) -> str:
    """Writes a score, see [`compare`], with everything that it depends on."""
    kid = score["kid"]
    rows = [
        ("KID × 1000", _kid_times_1000(kid)),
        ("Fréchet distance", f"{score['frechet_distance']:.1f}"),
        ("Precision", f"{score['precision']:.2f}"),
        ("Recall", f"{score['recall']:.2f}"),
    ]
    how = (
        f"{score['num_images']:,} images"
        + (f", {_steps_and_evaluations(score)} of {score['scheduler']}" if "scheduler" in score else "")
        + f", {_compared_with(score)}; KID over {kid['subsets']} subsets of {kid['subset_size']} (mean ± standard deviation)."
    )
    few = few_pictures(score["num_images"], score["reference"]["num_images"])
    return f"{markdown_table(['score', 'value'], rows)}\n{how}\n" + (f"\n**{few}**\n" if few else "")


def scores_table(scores: Sequence[dict]) -> str:
    """Writes scores of several models side by side.

    Raises:
        ValueError: if they cannot be compared: for other real pictures, features, or numbers of images.
    """
    for score in scores:
        if any(score[name] != scores[0][name] for name in ("reference", "feature_extractor", "num_images")):
            raise ValueError(
                f"The score of {score.get('model', score.get('images'))} is of other real pictures, features or numbers of images "
                "than the first: score both with the same `--reference` and `--num_images`."
            )
    lines = [
        [
            score.get("model", score.get("images")),
            str(score.get("num_inference_steps", "")),
            f"{score['guidance_scale']:g}" if "guidance_scale" in score else "",
            _kid_times_1000(score["kid"]),
            f"{score['frechet_distance']:.1f}",
            f"{score['precision']:.2f}",
            f"{score['recall']:.2f}",
        ]
        for score in scores
    ]
    text = f"{scores[0]['num_images']:,} images each, {_compared_with(scores[0])}.\n"
    head = ["model", "steps", "guidance", "KID × 1000", "Fréchet distance", "precision", "recall"]
    return f"{markdown_table(head, lines)}\n{text}"


def steps_table(result: dict) -> str:
    """Writes the result of [`ScoredModel.quality_against_steps`], and which setting is as good as 20 steps of DDIM."""
    rows = {(row["solver"], row["num_inference_steps"]): _kid_of_row(row) for row in result["rows"]}
    solvers, numbers = (list(dict.fromkeys(column)) for column in zip(*rows, strict=True))
    lines = [[str(number), *(rows[solver, number] for solver in solvers)] for number in numbers]
    text = (
        f"KID × 1000 of {result['num_images']:,} images from the same noise, {_compared_with(result)}; the network ran in "
        f"{result['dtype']}.\n"
    )
    if any(evaluations(row) != row["num_inference_steps"] for row in result["rows"]):
        text += "In brackets: network evaluations, where they are not as many as the steps.\n"
    best = fewest_steps(result["rows"])
    if best:
        text += (
            f"The quality of 20 DDIM steps, within their standard deviation, takes {evaluations(best)} network "
            f"evaluations with {best['solver']}.\n"
        )
    return f"{markdown_table(['steps', *solvers], lines)}\n{text}"


def students_table(result: dict) -> str:
    """Writes the result of [`compare_students`]."""
    head = ["model", "steps", "network evaluations", "KID × 1000", "ms a picture"]
    lines = [
        [
            f"{row['model']} ({row['role']})",
            str(row["num_inference_steps"]),
            str(row["network_evaluations"]),
            _kid_times_1000(row["kid"]),
            f"{1000 * row['seconds_per_image']:.1f}",
        ]
        for row in result["rows"]
    ]
    seeds = ", ".join(map(str, result["seeds"]))
    text = (
        f"Mean and standard deviation of {len(result['seeds'])} sets of {result['num_images']:,} images (seeds from {seeds}), "
        f"{_compared_with(result)}; {result['dtype']}, batches of {result['batch_size']}, {result['threads']} threads.\n"
    )
    return f"{markdown_table(head, lines)}\n{text}"


def guidance_table(result: dict) -> str:
    """Writes the result of [`ScoredModel.quality_against_guidance`]."""
    shares = {"top1": "named right, first", "top5": "in five"}
    shares = {name: label for name, label in shares.items() if name in result["rows"][0]}
    lines = [
        [
            f"{row['guidance_scale']:g}",
            _kid_times_1000(row["kid"]),
            f"{row['frechet_distance']:.1f}",
            f"{row['precision']:.2f}",
            f"{row['recall']:.2f}",
            *(f"{row[name]:.0%}" for name in shares),
        ]
        for row in result["rows"]
    ]
    text = (
        f"{result['num_images']:,} images a row in {result['num_inference_steps']} steps, {_compared_with(result)}; the "
        f"network ran in {result['dtype']}.\n"
    )
    head = ["guidance", "KID × 1000", "Fréchet distance", "precision", "recall", *shares.values()]
    return f"{markdown_table(head, lines)}\n{text}"


def classes_table(result: dict) -> str:
    """Writes the result of [`measure_classes`], with the classes from the best to the worst."""
    sides = ("generated", "photographs")
    names = {"generated": "generated", "photographs": "held-out photographs"}
    columns = ("named right, first", "in five", "distance")
    known, nearer = result["num_photographs"], result["memorization"]["generated_nearer_than_1_percent_of_held_out"]
    how = (
        f"{result['num_images']:,} images, {result['num_inference_steps']} steps, guidance {result['guidance_scale']:g}; the "
        f"classifier has learned from {known['training']:,} photographs, and {known['held out']:,} others are held out; in the "
        f"feature space of {result['feature_extractor']}. Distance is the median to the nearest training photograph of the class, "
        f"and {100 * nearer:.1f} % of the generated images are nearer than the nearest 1 % of held-out photographs."
    )
    rated = [row for row in result["classes"] if row["generated"]["count"]]
    rated.sort(key=lambda row: (-row["generated"]["top1"], -row["generated"]["top5"], row["name"]))
    by_class = [(row["name"], *(cell for of in sides for cell in _class_cells(row[of]))) for row in rated]
    total = markdown_table(["", *columns], [(names[of], *_class_cells(result[of])) for of in sides])
    head = [
        "class",
        *(f"generated, {column}" for column in columns),
        *(f"photographs, {column}" for column in columns),
    ]
    return f"{total}\n{how}\n\n{markdown_table(head, by_class)}"


def _class_cells(summary: dict) -> tuple[str, str, str]:
    if not summary["count"]:
        return ("", "", "")
    distance = "" if summary["nearest"] is None else f"{summary['nearest']:.1f}"
    return (f"{summary['top1']:.0%}", f"{summary['top5']:.0%}", distance)


def fewest_steps(rows: Sequence[dict], standard: tuple[str, int] = ("ddim", 20)) -> dict | None:
    """Finds the row with the fewest network evaluations whose KID is at most that of `standard` plus its standard deviation."""
    bar = next((row for row in rows if (row["solver"], row["num_inference_steps"]) == standard), None)
    if bar is None:
        return None
    good = [row for row in rows if row["kid"]["mean"] <= bar["kid"]["mean"] + bar["kid"]["std"]]
    return min(good, key=lambda row: (evaluations(row), row["kid"]["mean"]))


def evaluations(row: dict) -> int:
    """Network evaluations per image; older records are of solvers that take as many as steps, and do not say it."""
    return row.get("network_evaluations", row["num_inference_steps"])


def memorization_table(report: dict) -> str:
    """Writes the report of [`measure_memorization`]."""
    columns = list(report["features"]["generated"])
    lines = []
    for space, digits in (("features", 1), ("pixels", 3)):
        for kind, label in (("generated", "generated"), ("held_out", "held-out photographs")):
            values = [f"{report[space][kind][column]:.{digits}f}" for column in columns]
            lines.append([f"{label}, {space}", *values])
    nearer = {space: report[space]["generated_nearer_than_1_percent_of_held_out"] for space in ("features", "pixels")}
    text = (
        f"{100 * nearer['features']:.1f} % of {report['num_images']:,} generated images in feature space "
        f"({report['feature_extractor']}), and {100 * nearer['pixels']:.1f} % in pixels, are nearer to the training set than the "
        "nearest 1 % of held-out photographs.\n"
    )
    return f"{markdown_table(['distance to the nearest training image', *columns], lines)}\n{text}"


def _compared_with(result: dict) -> str:
    """Which real pictures generated ones were compared with, and by what."""
    reference = result["reference"]
    return (
        f"against {reference['num_images']:,} real ones ({reference['name']}), in the feature space of "
        f"{result['feature_extractor']}"
    )


def _steps_and_evaluations(score: dict) -> str:
    steps = score["num_inference_steps"]
    return f"{steps} steps" + (f" ({evaluations(score)} network evaluations)" if evaluations(score) != steps else "")


def _kid_of_row(row: dict) -> str:
    differs = evaluations(row) != row["num_inference_steps"]
    return _kid_times_1000(row["kid"]) + (f" ({evaluations(row)})" if differs else "")


def _kid_times_1000(kid: dict) -> str:
    return f"{1000 * kid['mean']:.1f} ± {1000 * kid['std']:.1f}"
