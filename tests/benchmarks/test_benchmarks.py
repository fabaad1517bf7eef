"""The benchmark, run for real on tiny networks: that it measures and reports, not how fast anything is."""

import json
import re

import pytest
from conftest import ROOT

from flower_ddim.benchmarks.comparison import Settings, take_turns
from flower_ddim.benchmarks.contenders import CONTENDERS, Job
from flower_ddim.benchmarks.processes import Worker, find_tensorflow
from flower_ddim.benchmarks.report import sizes_tables, throughput_table
from flower_ddim.benchmarks.sizes import SizeSettings, measure_sizes
from flower_ddim.machine import has_bfloat16


TINY = {"block_out_channels": [8, 16], "layers_per_block": 1}
DOCUMENT = "docs/performance.md"


def rows(table):
    """The lines of a Markdown table below its head, as lists of cells; all have the same number."""
    head, rule, *lines = (line.strip("|").split("|") for line in table.splitlines() if line.startswith("|"))
    assert set(rule) == {"---"} and {len(line) for line in (head, *lines)} == {len(rule)}
    return [[cell.strip() for cell in line] for line in lines]


def blocks(document):
    return dict(re.findall(r"<!-- ([\w-]+) -->\n(.*?)<!-- /\1 -->", document.read_text(), re.DOTALL))


@pytest.mark.slow
def test_the_script_compares_and_fills_every_block_of_the_document(run_script, tmp_path):
    document, output = tmp_path / "performance.md", tmp_path / "new" / "numbers.json"
    document.write_text("".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in blocks(ROOT / DOCUMENT)))
    sizes = ["--block_out_channels", 8, 16, "--layers_per_block", 1, "--num_inference_steps", 5, "--threads", 1]
    common = [*sizes, "--document", document, "--output", output]
    who, few_steps = ["flower_ddim-bfloat16", "diffusers-stock"], "flower_ddim-student"
    batches = ["--sample_size", 16, "--train_batch_size", 2, "--batch_size", 2, "--rounds", 1]
    run_script("benchmark.py", "compare", *common, "--contenders", *who, few_steps, *batches)
    compared = json.loads(output.read_text())
    for task, names in (("training", who), ("generation", [*who, few_steps])):
        assert list(compared[task]) == [*names, "ceiling-float32", "ceiling-bfloat16"]
        for name in names:
            row = compared[task][name]
            assert row["images_per_second"] == pytest.approx(2 / row["seconds"][0])
            assert row["peak_memory"] > 50 * 2**20 and row["gflop_per_image"] > 0
    assert list(compared["first_picture"]) == who and compared["settings"]["rounds"] == 1
    assert 0 < compared["imports"]["import flower_ddim"][0] < compared["imports"]["FlowerDDIMPipeline"][0]

    run_script("benchmark.py", "sizes", *common, "--sample_sizes", 16, "--widths", 1, "--batch_sizes", 1, 2)
    device = ["--modes", "float32", "bfloat16", "--train_batch_sizes", 2, "--batch_sizes", 1, 2, "--threads", 1]
    device += ["--steps", 2, "--rounds", 1, "--num_inference_steps", 2, "--document", document, "--output", output]
    run_script("benchmark.py", "device", *device)
    measured = json.loads(output.read_text())["device"]
    assert [(row["mode"], row["batch_size"]) for row in measured["training"]] == [("float32", 2), ("bfloat16", 2)]
    assert all(0 < row["slowest"] <= row["images_per_second"] for row in measured["generation"])
    written = blocks(document)
    assert len(rows(written["device-generation"])) == 4
    assert all(rows(table) for table in written.values())
    assert [row[:2] for row in rows(written["generation"])] == [
        ["flower_ddim", "bfloat16"],
        ["diffusers, a stock U-Net", "float32"],
        [CONTENDERS[few_steps].label, "bfloat16, compiled"],
    ]
    assert any("torch 2." in cell for row in rows(written["machine"]) for cell in row)
    assert rows(written["sizes-machine"])[2][0] == "computes in"
    assert len(rows(written["startup"])) == 5 and len(rows(written["sizes-training"])[0]) == 4


@pytest.mark.slow
def test_contenders_take_turns_with_the_ceiling_of_their_dtype():
    found = take_turns(Settings(["diffusers-same"], 2, 1, 2, 2, 2, 16, **TINY), "generate")
    assert len(found["diffusers-same"]["seconds"]) == 2 and found["diffusers-same"]["parameters"] > 0
    assert list(found) == ["diffusers-same", "ceiling-float32"]
    assert all(rate > 0 for rate in found["ceiling-float32"]["gflops"])


def test_the_loop_of_diffusers_trains_our_network():
    with Worker(Job("diffusers-same", "train", 2, 16, **TINY), threads=1) as worker:
        first, second = worker.turn(), worker.turn()
    assert first["seconds"] > 0 and second["peak_memory"] >= first["peak_memory"] > 50 * 2**20


@pytest.mark.slow
@pytest.mark.skipif(find_tensorflow() is None, reason="TensorFlow is not installed: make bench")
def test_keras_has_the_same_network(tmp_path):
    """In training, generation and at the first picture, and as many parameters."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from flower_ddim import FlowerUNet2DModel

    settings = Settings(["keras"], 1, 1, 2, 2, 2, 16, **TINY, tensorflow_python=find_tensorflow())
    unet = FlowerUNet2DModel(16, **TINY)
    expected = sum(p.numel() for p in unet.parameters() if isinstance(p, torch.nn.Parameter))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet.eval()(torch.zeros(1, 3, 16, 16), 0)
    for task in ("train", "generate"):
        with settings.worker(settings.job("keras", task)) as worker:
            assert worker.facts["parameters"] == expected
            assert worker.facts["gflop_per_image"] * 1e9 == pytest.approx(counter.get_total_flops())
            assert worker.turn()["seconds"] > 0
    for task in ("save", "first_picture"):
        settings.worker(Job("keras", task, 1, 16, **TINY, num_inference_steps=2, folder=str(tmp_path / "m"))).close()
    assert (tmp_path / "m" / "model.weights.h5").exists()


def test_a_contender_that_fails_says_why():
    with pytest.raises(ChildProcessError, match=r"flower_ddim \(train\) failed: (.|\n)*multiple of 4"):
        Worker(Job("flower_ddim-float32", "train", 2, 18, [8, 16, 24], 1), threads=1)


def test_throughput_is_set_against_keras_and_the_ceiling_of_its_dtype():
    measured = {"images": 4, "seconds": [1.0, 2.0, 4.0], "images_per_second": 2.0, "gflop_per_image": 5.0}
    measured |= {"peak_memory": 2**30, "startup_seconds": 7.4}
    found = {
        "flower_ddim-bfloat16-compiled": measured,
        "keras": measured | {"images_per_second": 0.5, "gflop_per_image": 8.0},
        "ceiling-float32": {"gflops": [50.0]},
        "ceiling-bfloat16": {"gflops": [90.0, 100.0]},
    }
    assert rows(throughput_table(found, passes=3)) == [
        ["flower_ddim", "bfloat16, compiled", "2.00 (1.00 to 4.00)", "4.00", "30", "30%", "1.00", "7"],
        [CONTENDERS["keras"].label, "float32", "0.50 (1.00 to 4.00)", "1.00", "12", "24%", "1.00", "7"],
    ]
    del found["keras"]
    assert rows(throughput_table(found, passes=3))[0][3] == "–"


def test_sizes_that_cannot_be_afforded_are_left_out_with_the_reason():
    settings = SizeSettings([16], [1], [1, 2, 4], **TINY, num_inference_steps=4, max_seconds=1e-9)
    cells = measure_sizes(settings)
    assert [cell.get("left_out") for cell in cells] == [None, "time", "time"] * 2
    generated = cells[3]
    assert generated["images_per_second"] == pytest.approx(1 / (2 * sorted(generated["seconds"])[0]), rel=1)
    row = rows(sizes_tables({"cells": cells} | NO_MACHINE)["sizes-training"])[0]
    assert row[:2] == ["16", "×1"] and row[3:] == ["– (time)", "– (time)"]


NO_MACHINE = {
    "machine": {
        "processor": "",
        "cores": 1,
        "threads": 1,
        "memory_gib": 1,
        "system": "",
        "python": "",
        "versions": {},
        "load_before": 0,
    },
    "seconds": 1,
}


def test_bfloat16_takes_part_where_the_processor_has_instructions_for_it():
    dtypes = {CONTENDERS[name].dtype for name in Settings().contenders}
    assert dtypes == ({"float32", "bfloat16"} if has_bfloat16() else {"float32"})


def test_wrong_settings_are_refused(run_script):
    with pytest.raises(ValueError, match="`rounds` is 0"):
        Settings(rounds=0)
    with pytest.raises(ValueError, match="no contender jax: choose among flower_ddim-float32"):
        Settings(["jax"])
    with pytest.raises(ValueError, match="must rise"):
        SizeSettings(batch_sizes=[4, 1])
    with pytest.raises(FileNotFoundError, match="make bench"):
        find_tensorflow("no/such/python")
    completed = run_script("benchmark.py", "compare", "--rounds", 0, expect_success=False)
    assert completed.returncode == 1 and "`rounds` is 0" in completed.stderr and "Traceback" not in completed.stderr
