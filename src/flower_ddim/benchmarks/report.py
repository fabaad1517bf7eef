"""Writes measurements as Markdown tables."""

import statistics
from collections.abc import Sequence

from ..storage.documents import markdown_table
from .contenders import CONTENDERS


#: Cost of a training step in forward passes: the gradients of inputs and of weights cost one each.
TRAINING_FACTOR = 3
MISSING = "–"


COMPARISON_TABLES = ("machine", "training", "generation", "startup")
RUNTIMES_TABLES = ("runtimes-machine", "runtimes")
DEVICE_TABLES = ("device-machine", "device-training", "device-generation")
SIZES_TABLES = ("sizes-machine", "sizes-training", "sizes-generation")


def comparison_tables(result: dict) -> dict[str, str]:
    """Writes the tables `COMPARISON_TABLES`, by name, from the result of `compare`."""
    steps = result["settings"]["num_inference_steps"]
    tables = (
        machine_table(result),
        throughput_table(result["training"], TRAINING_FACTOR),
        throughput_table(result["generation"], steps),
        startup_table(result),
    )
    return dict(zip(COMPARISON_TABLES, tables, strict=True))


def device_tables(result: dict) -> dict[str, str]:
    """Writes the tables `DEVICE_TABLES`, by name, from the result of `device`."""
    head = ["computes in", "images at a time", "images/s, median (range)"]
    tables = [machine_table(result)]
    for task in ("training", "generation"):
        lines = [
            [
                row["mode"].replace("-", ", "),
                str(row["batch_size"]),
                f"{row['images_per_second']:,.0f} ({row['slowest']:,.0f} to {row['fastest']:,.0f})",
            ]
            for row in result["device"][task]
        ]
        tables.append(markdown_table(head, lines))
    return dict(zip(DEVICE_TABLES, tables, strict=True))


def throughput_table(rows: dict[str, dict], passes: int) -> str:
    """Writes images per second, the ratio to Keras, and the share of the machine's ceiling.

    Args:
        rows: by contender, as `take_turns` returns them.
        passes: cost of one image with all steps, in forward passes.
    """
    ceilings = {name.removeprefix("ceiling-"): max(row["gflops"]) for name, row in rows.items() if "gflops" in row}
    keras = rows.get("keras", {}).get("images_per_second")
    lines = []
    for name, row in rows.items():
        if "gflops" in row:
            continue
        contender, rate = CONTENDERS[name], row["images_per_second"]
        fastest, slowest = (row["images"] / pick(row["seconds"]) for pick in (min, max))
        gflops = passes * contender.step_share * rate * row["gflop_per_image"]
        lines.append(
            [
                contender.label,
                contender.dtype + (", compiled" if contender.compiled else ""),
                f"{rate:.2f} ({slowest:.2f} to {fastest:.2f})",
                f"{rate / keras:.2f}" if keras else MISSING,
                f"{gflops:.0f}",
                f"{gflops / ceilings[contender.dtype]:.0%}",
                f"{row['peak_memory'] / 2**30:.2f}",
                f"{row['startup_seconds']:.0f}",
            ]
        )
    head = ["contender", "computes in", "images/s, median (range)", "to Keras", "GFLOP/s", "of the ceiling"]
    table = markdown_table([*head, "peak memory, GiB", "ready after, s"], lines)
    found = ", ".join(f"{ceiling:.0f} GFLOP/s in {dtype}" for dtype, ceiling in ceilings.items())
    return f"{table}\nThe ceiling, the best product of large matrices in the same run: {found}.\n"


def startup_table(result: dict) -> str:
    """Writes medians and ranges of the times to the first picture and of the imports."""
    lines = []
    for name, seconds in result["first_picture"].items():
        contender = CONTENDERS[name]
        lines.append([f"first picture: {contender.label}, {contender.dtype}", _seconds(seconds)])
    labels = {"import flower_ddim": "`import flower_ddim`", "nothing": "`pass`, for comparison"}
    labels["FlowerDDIMPipeline"] = "`from flower_ddim import FlowerDDIMPipeline`"
    lines += [[labels[name], _seconds(seconds)] for name, seconds in result["imports"].items()]
    return markdown_table(["from nothing to", "seconds, median (range)"], lines)


def machine_table(result: dict) -> str:
    """Writes machine and versions."""
    machine, contender = result["machine"], result.get("settings", {}).get("contender")
    versions = dict(machine["versions"])
    for row in (*result.get("training", {}).values(), *result.get("generation", {}).values()):
        versions |= row["versions"]
    return markdown_table(
        ["", ""],
        [
            *([["device", result["device"]["name"]]] if "device" in result else []),
            ["processor", machine["processor"]],
            ["cores, threads used", f"{machine['cores']}, {machine['threads']}"],
            *([["computes in", CONTENDERS[contender].dtype]] if contender else []),
            ["memory", f"{machine['memory_gib']:.0f} GiB"],
            ["system", f"{machine['system']}, Python {machine['python']}"],
            ["versions", ", ".join(f"{name} {version}" for name, version in versions.items())],
            ["load of the minute before", f"{machine['load_before']:.1f}"],
            ["took", f"{result['seconds'] / 60:.1f} minutes"],
        ],
    )


def runtimes_tables(result: dict) -> dict[str, str]:
    """Writes the tables `RUNTIMES_TABLES`, by name, from the result of `measure_runtimes`."""
    steps, total = result["num_inference_steps"], sum(result["bytes"].values())
    lines = [
        *([f"first picture: {name}", f"{_seconds(values)} s"] for name, values in result["first_picture"].items()),
        *([f"{name}", f"{_seconds(values)} pictures/s"] for name, values in result["images_per_second"].items()),
        *(
            [f"browser, {name}", f"{_seconds(values)} ms a step"]
            for name, values in result["milliseconds_per_step"].items()
        ),
        [
            "browser, to load",
            f"{total / 1e6:.1f} MB, of which the model {result['bytes']['model/unet.onnx'] / 1e6:.1f}",
        ],
    ]
    batch, threads = result["settings"]["batch_size"], result["settings"]["threads"]
    text = f"{steps} steps in float32; {threads} threads, and batches of {batch} for pictures per second.\n"
    tables = (machine_table(result), f"{markdown_table(['what', 'median (range)'], lines)}\n{text}")
    return dict(zip(RUNTIMES_TABLES, tables, strict=True))


def sizes_tables(result: dict) -> dict[str, str]:
    """Writes the tables `SIZES_TABLES`, by name, from the result of `measure_sizes`."""
    cells = result["cells"]
    tables = (machine_table(result), _sizes_table(cells, "train"), _sizes_table(cells, "generate"))
    return dict(zip(SIZES_TABLES, tables, strict=True))


def _sizes_table(cells: Sequence[dict], task: str) -> str:
    cells = [cell for cell in cells if cell["task"] == task]
    batches = sorted({cell["batch_size"] for cell in cells})
    lines = []
    for size, width in sorted({(cell["sample_size"], cell["width"]) for cell in cells}):
        line = [f"{size}", f"×{width}"]
        for batch in batches:
            cell = next(c for c in cells if (c["sample_size"], c["width"], c["batch_size"]) == (size, width, batch))
            if "left_out" in cell:
                line.append(f"{MISSING} ({cell['left_out']})")
            else:
                line.append(f"{cell['images_per_second']:.3g} ({cell['peak_memory'] / 2**30:.2f})")
        lines.append(line)
    return markdown_table(["pixels", "width", *(f"batch {batch}" for batch in batches)], lines)


def _seconds(seconds: Sequence[float]) -> str:
    digits = 3 if max(seconds) < 1 else 1
    median, least, most = (
        f"{number:.{digits}f}" for number in (statistics.median(seconds), min(seconds), max(seconds))
    )
    return f"{median} ({least} to {most})"
