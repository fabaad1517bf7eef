"""Many images in a folder, divided between processes; a later run adds those that an earlier one did not reach."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from ..machine import warn_of_emulated_bfloat16
from ..pipelines.class_labels import ClassLabels
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.checksums import weights_checksum
from ..storage.files import check_output, replacing, write_json
from .compilation import compile_unet
from .seeds import GOLDEN_RATIO
from .solvers import check_eta, with_solver


OPTIONS_FILE = "generation.json"
RECORD = "generation"  # the text in every image that says how it was made
COMPARED_STEPS = (1, 2, 3, 4, 5, 20, 100)  # of figures and cards that compare images from the same noise


def generate_folder(
    model: str,
    output_dir: str | Path,
    num_images: int,
    num_inference_steps: int | None = None,
    eta: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
    dtype: str = "float32",
    compile: bool = False,
    solver: str = "ddim",
    class_labels: Sequence[str | int | None] | None = None,
    guidance_scale: float | None = None,
) -> Path:
    """Generates those of `000000.png`, `000001.png`, … that are missing, with the seeds `seed`, `seed` + 1, ….

    Under `accelerate launch` every process generates its share. An image depends on its seed alone: the number of processes
    changes nothing, and the size of a batch only the rounding.

    Args:
        model: folder or Hub id of a pipeline.
        output_dir: where the images go, beside `generation.json` with the options that made them.
        batch_size: images that are generated at a time in each process.
        dtype: that the network computes in, `"float32"`, `"bfloat16"` or `"float16"`.
        compile: whether to compile the network, once for all batches; see [`compile_unet`].
        solver: one of [`SOLVERS`].
        class_labels: classes that follow one another: the images N, N + len(class_labels), … have the class N. A number that is no
            name is an index.
        num_inference_steps, guidance_scale: what the model recommends, if `None`.

    Raises:
        OSError: if the folder cannot be written to.
        ValueError: if the folder holds images of other options, weights or origin, or a number is out of range.
    """
    _check_numbers(eta, num_images=num_images, batch_size=batch_size, num_inference_steps=num_inference_steps)
    check_eta(eta, solver)
    output_dir = Path(output_dir)
    check_output(output_dir / OPTIONS_FILE)
    accelerator = Accelerator()
    pipe, weights = load_with_checksum(model, getattr(torch, dtype), accelerator.device, compile)
    pipe = with_solver(pipe, solver)
    sampling = {"num_inference_steps": num_inference_steps or pipe.default_num_inference_steps, "eta": eta}
    options = {"weights": weights, **sampling, "seed": seed}
    sampling["guidance_scale"] = guidance_scale
    if labels := known_labels(pipe, class_labels):
        scale = ClassLabels(pipe.unet).guidance_scale(torch.tensor(labels), guidance_scale)
        options |= {"class_labels": labels, "guidance_scale": scale}
    options |= {"dtype": dtype} if dtype != "float32" else {}
    options |= {"solver": solver} if solver != "ddim" else {}
    mine = range(accelerator.process_index, num_images, accelerator.num_processes)
    missing = _claim_folder(output_dir, options, mine, accelerator)
    with tqdm(
        total=len(mine), initial=len(mine) - len(missing), unit="image", disable=not accelerator.is_main_process
    ) as bar:
        for i, image in _generated(pipe, missing, seed, batch_size, compile, labels, sampling):
            _save_image(image, _image_path(output_dir, i), options | {"number": i})
            bar.update()
    accelerator.wait_for_everyone()
    return output_dir


def _generated(
    pipe: FlowerDDIMPipeline,
    missing: list[int],
    seed: int,
    batch_size: int,
    compile: bool,
    labels: list[int] | None,
    sampling: dict,
) -> Iterator[tuple[int, PIL.Image.Image]]:
    """Yields the images of these numbers, each with its number; `labels` follow one another."""
    for start in range(0, len(missing), batch_size):
        numbers = missing[start : start + batch_size]
        # Compiled code serves one size of batch: filling the last batch is faster than compiling for what is left.
        filling = numbers[-1:] * (min(batch_size, len(missing)) - len(numbers)) if compile else []
        filled = [*numbers, *filling]
        classes = {"class_labels": [labels[i % len(labels)] for i in filled]} if labels else {}
        yield from zip(numbers, generate_numbers(pipe, filled, seed, **sampling, **classes), strict=False)


def _check_numbers(eta: float, **counts: int | None):
    for name, number in counts.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` is {number}, but must be at least 1.")
    if not 0 <= eta <= 1:
        raise ValueError(f"`eta` is {eta}, but must lie in [0, 1].")


def load_with_checksum(
    model: str, dtype: torch.dtype, device: torch.device, compile: bool
) -> tuple[FlowerDDIMPipeline, str]:
    """A pipeline to generate many images with, and the checksum of its weights before they are rounded to `dtype`."""
    pipe = FlowerDDIMPipeline.from_pretrained(model)
    checksum = weights_checksum(pipe.unet.state_dict())
    warn_of_emulated_bfloat16(str(dtype).removeprefix("torch."), torch.device(device).type)
    if dtype != torch.float32:  # loading again keeps in float32 what needs it
        pipe = FlowerDDIMPipeline.from_pretrained(model, dtype=dtype)
    pipe.to(device)
    if compile:
        compile_unet(pipe.unet)
    return pipe, checksum


def generate_numbers(
    pipe: FlowerDDIMPipeline, numbers: Sequence[int], seed: int, **options
) -> list[PIL.Image.Image] | np.ndarray | torch.Tensor:
    """The images `numbers` of the endless sequence that begins at `seed`; `options` are the pipeline's."""
    generators = [torch.Generator().manual_seed(seed + i) for i in numbers]
    return pipe(len(numbers), generators, **options).images


def known_labels(pipe: FlowerDDIMPipeline, labels: Sequence[str | int | None] | None) -> list[int] | None:
    """Indices of classes, given as they are on a command line: a number that is no name is an index."""
    if not labels:
        return None
    numbers = {label: int(label) for label in labels if str(label).isdecimal() and label not in pipe.labels}
    return pipe.get_label_ids([numbers.get(label, label) for label in labels])


def spread_classes(pipe: FlowerDDIMPipeline, count: int) -> list[int] | None:
    """Classes for so many images, evenly from the first to the last; `None` where the model knows none."""
    classes = pipe.unet.config.get("num_class_embeds")
    return [i * classes // count for i in range(count)] if classes else None


def labels_in_proportion(counts: Sequence[int], number: int) -> list[int]:
    """The classes of `number` images in the proportions of `counts`, those of any few neighbours as well.

    Image i has the class at the place (i + 1/2)·φ mod 1 of all that are counted, with the golden ratio less one, φ.
    """
    ends = np.cumsum(counts) / np.sum(counts)
    places = (np.arange(number) + 0.5) * GOLDEN_RATIO % 1
    return np.searchsorted(ends, places, side="right").tolist()


def noise_of_seeds(pipe: FlowerDDIMPipeline, seeds: Iterable[int]) -> torch.Tensor:
    """The noise from which the images of these seeds are generated, (N, C, H, W)."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([torch.randn(pipe.latent_shape, generator=generator) for generator in generators])


def _image_path(output_dir: Path, number: int) -> Path:
    return output_dir / f"{number:06}.png"


def _save_image(image: PIL.Image.Image, path: Path, record: dict):
    info = PngInfo()
    info.add_text(RECORD, json.dumps(record))
    with replacing(path) as unfinished:
        image.save(unfinished, pnginfo=info)


def _claim_folder(output_dir: Path, options: dict, numbers: Iterable[int], accelerator: Accelerator) -> list[int]:
    """Returns those of `numbers` that are missing, and writes the options beside the images.

    All processes refuse together, and before one has written anything, if a single one meets a file that is not ours.
    """
    _check_options(output_dir, options)
    missing, foreign = [], []
    for i in numbers:
        path = _image_path(output_dir, i)
        if not path.is_file() or not path.read_bytes().strip(b"\0"):  # a power cut may leave nothing, or zeros
            (foreign if path.is_dir() else missing).append(i)
        elif _record(path) != options | {"number": i}:
            foreign.append(i)
        elif _is_damaged(path):
            missing.append(i)
    if foreign := sorted(gather_object(foreign)):
        raise ValueError(
            f"{_image_path(output_dir, foreign[0])} was not generated with these options and this number: move it away, or name "
            "another folder."
        )
    with accelerator.main_process_first():
        if not (output_dir / OPTIONS_FILE).exists():
            write_json(output_dir / OPTIONS_FILE, options)
        _check_options(output_dir, options)
    return missing


def _check_options(output_dir: Path, options: dict):
    """Makes sure that the images that are there, if any, were made with the same options."""
    path = output_dir / OPTIONS_FILE
    if not path.exists():
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, or name another folder.") from error
    if earlier != options:
        names = [name for name in {**earlier, **options} if earlier.get(name) != options.get(name)]
        there, here = ({name: made.get(name) for name in names} for made in (earlier, options))
        raise ValueError(f"{output_dir} holds images made with {there}, not with {here}: name another folder.")


def _record(path: Path) -> dict | None:
    """How an image says that it was made; `None` if it is of another origin, or too damaged to say."""
    try:
        with PIL.Image.open(path) as image:
            return json.loads(image.info[RECORD])
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return None


def _is_damaged(path: Path) -> bool:
    try:
        with PIL.Image.open(path) as image:
            image.verify()  # the checksums of all parts
        with PIL.Image.open(path) as image:
            image.load()  # and that no part is missing
    except (OSError, SyntaxError, ValueError):
        return True
    return False
