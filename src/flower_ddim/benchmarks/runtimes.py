"""Measures a model outside of PyTorch: in numpy with onnxruntime, and in a browser, in turns with the pipeline."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..extras import install_command
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..web.serving import ISOLATION, serving
from ..web.site import write_site
from .contenders import check_counts


# Makes a picture in a process of its own, and then says how many it makes in a second.
PYTORCH = """
import sys, time, torch
from flower_ddim import FlowerDDIMPipeline

pipe = FlowerDDIMPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
pipe(generator=torch.Generator().manual_seed(0)).images[0].save("flower.png")
print("first", flush=True)
start = time.perf_counter()
pipe(batch_size={batch_size})
print({batch_size} / (time.perf_counter() - start))
"""
# Goes on where the script of docs/onnx.md ends.
AFTER_SCRIPT = """
import time
print("first", flush=True)
many = np.random.default_rng(0).standard_normal(({batch_size}, *shape[1:]), dtype=np.float32)
start = time.perf_counter()
sampler(many, settings["num_inference_steps"])
print({batch_size} / (time.perf_counter() - start))
"""


@dataclass(frozen=True)
class RuntimeSettings:
    """What is measured.

    Args:
        model: folder of a pipeline.
        runtime: unpacked npm package, see [`write_site`].
        script: Markdown of which the first Python block is a sampler for the folder `my-export`.
        threads: of PyTorch and onnxruntime; a browser takes those that it finds.
        rounds: turns of each.
        batch_size: images at a time, for images per second.
    """

    model: str
    runtime: str
    script: str
    threads: int
    rounds: int = 3
    batch_size: int = 16

    def __post_init__(self):
        check_counts(self, "threads", "rounds", "batch_size")


def measure_runtimes(settings: RuntimeSettings) -> dict:
    """Seconds to the first picture, images per second, and what a step takes in the browser, each for every turn.

    Raises:
        ModuleNotFoundError: without Playwright, naming the extra.
        FileNotFoundError: without Chromium.
    """
    if importlib.util.find_spec("playwright") is None:
        hint = f"Playwright drives the browser: {install_command('browser')}"
        raise ModuleNotFoundError(hint, name="playwright")
    if shutil.which("chromium") is None:
        raise FileNotFoundError("There is no chromium on this machine: install it.")
    found = re.search(r"```python\n(.*?)```", Path(settings.script).read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise ValueError(
            f"{settings.script} has no block of Python: name docs/onnx.md of the repository with `--script`."
        )
    sizes = {"batch_size": settings.batch_size}
    model = os.path.abspath(settings.model) if os.path.isdir(settings.model) else settings.model  # or an id on the Hub
    pipe = FlowerDDIMPipeline.from_pretrained(settings.model)
    with tempfile.TemporaryDirectory() as folder:
        write_site(pipe, Path(folder, "page"), settings.runtime)
        shutil.copytree(Path(folder, "page", "model"), Path(folder, "my-export"))
        Path(folder, "sampler.py").write_text(found[1] + AFTER_SCRIPT.format(**sizes))
        contenders = {
            "PyTorch, the pipeline": [sys.executable, "-c", PYTORCH.format(**sizes), model],
            "onnxruntime, the script of docs/onnx.md": [sys.executable, "sampler.py"],
        }
        turns = [
            {name: _time_process(command, folder, settings.threads) for name, command in contenders.items()}
            for _ in range(settings.rounds)
        ]
        steps = _time_steps(Path(folder, "page"), settings.rounds)
        page = sorted(path for path in Path(folder, "page").rglob("*") if path.is_file())
        downloaded = {
            path.relative_to(Path(folder, "page")).as_posix(): path.stat().st_size
            for path in page
            if "webgpu" not in path.name and "asyncify" not in path.name
        }
    return {
        "first_picture": {name: [turn[name][0] for turn in turns] for name in contenders},
        "images_per_second": {name: [turn[name][1] for turn in turns] for name in contenders},
        "milliseconds_per_step": steps,
        "bytes": downloaded,
        "num_inference_steps": pipe.default_num_inference_steps,
    }


def _time_process(command: list[str], folder: str, threads: int) -> tuple[float, float]:
    """Seconds from the start of a process to its first picture, and its images per second after that."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        first = time.perf_counter() - start
        rate = process.stdout.readline()
    if process.returncode:
        raise ChildProcessError(f"{command[:2]} ended with {process.returncode}; what it wrote stands above.")
    return first, float(rate)


def _time_steps(page: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds that a step takes in Chromium without a window, on one thread and on those that the headers allow."""
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as playwright:
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox", "--disable-gpu"]}
        with playwright.chromium.launch(**options) as browser:
            for _ in range(rounds):
                for headers in ({}, ISOLATION):
                    with serving(page, headers) as address, browser.new_page() as shown:
                        shown.goto(f"{address}/#seed=0&number=2")
                        shown.locator("#status", has_text="Done.").wait_for(timeout=300_000)
                        threads = shown.evaluate(
                            "crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1"
                        )
                        text = shown.inner_text("#status")
                        found.setdefault(f"{threads} thread{'s' if threads > 1 else ''}", []).append(
                            float(re.search(r"(\d+) ms", text)[1])
                        )
    return found
