"""Writes the page: its files, the exported model, and where the runtime comes from."""

import base64
import hashlib
import json
import shutil
from pathlib import Path

from ..conversion.to_onnx import NETWORK_FILE, SAMPLER_FILE, check_folder, export_onnx
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.files import replacing, write_json


STATIC = Path(__file__).parent / "static"
RUNTIME_FILE = "runtime.json"
PARTS = ("index.html", "page.css", "page.js", "network.js", "sampler.js", RUNTIME_FILE)
MODEL_FOLDER, RUNTIME_FOLDER = "model", "runtime"


def write_site(
    pipe: FlowerDDIMPipeline,
    out: str | Path,
    runtime: str | Path | None = None,
    weights: str | None = None,
    others: tuple[str, ...] = (),
):
    """Writes a folder of static files, which any server can show.

    Args:
        out: folder, which may hold an earlier page.
        runtime: unpacked npm package `onnxruntime-web` of the version in `static/runtime.json`, which is then copied, so that no
            request leaves the page's own server; without it the page fetches the same files from a public server, and checks them.
        weights: see [`export_onnx`].
        others: names that may lie in the folder as well.

    Raises:
        ModuleNotFoundError: without what the export needs, naming the extra.
        ValueError: for a model that cannot be exported, another runtime, or a folder with other files.
    """
    out, settings = Path(out), json.loads((STATIC / RUNTIME_FILE).read_text())
    parts = [part for kind in ("wasm", "webgpu") for part in settings[kind].values()]
    _check_place(out, tuple(part["file"] for part in parts), others)
    if runtime is not None:
        files = _runtime_files(Path(runtime), settings, parts)
        if out.resolve() in Path(runtime).resolve().parents:
            raise ValueError(
                f"The runtime {runtime} lies in the folder of the page, {out}: name another folder for one of them."
            )
        settings["base"] = f"{RUNTIME_FOLDER}/"
    export_onnx(pipe, out / MODEL_FOLDER, weights)
    shutil.rmtree(out / RUNTIME_FOLDER, ignore_errors=True)
    if runtime is not None:
        for file in files:
            _copy(file, out / RUNTIME_FOLDER / file.name)
    for name in PARTS:
        _copy(STATIC / name, out / name)
    write_json(out / RUNTIME_FILE, settings)


def _check_place(out: Path, runtime_files: tuple[str, ...], others: tuple[str, ...]):
    """Raises a ValueError where something else than an earlier page lies in the folder, before that is overwritten."""
    folders = {MODEL_FOLDER: (NETWORK_FILE, SAMPLER_FILE), RUNTIME_FOLDER: runtime_files}
    is_page = all((out / name).is_file() for name in PARTS)
    check_folder(out, (*PARTS, *folders, *others) if is_page else others)
    for name, files in folders.items():
        check_folder(out / name, files)


def _runtime_files(package: Path, settings: dict, parts: list[dict]) -> list[Path]:
    """The files of the runtime in an unpacked npm package; a ValueError if they are not those that the page was made for."""
    wanted = f"the npm package {settings['package']} {settings['version']}"
    remedy = f"`npm pack {settings['package']}@{settings['version']}` fetches it; unpack it and name its folder"
    try:
        version = json.loads((package / "package.json").read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError) as error:
        raise ValueError(f"{package} is not {wanted} ({error}): {remedy}.") from error
    if version != settings["version"]:
        raise ValueError(f"{package} is version {version}, not {wanted}: {remedy}.")
    for part in parts:
        path = package / "dist" / part["file"]
        if not path.is_file() or integrity(path) != part["integrity"]:
            raise ValueError(f"{path} is missing, or not that of {wanted}: {remedy}.")
    return [package / "dist" / part["file"] for part in parts]


def integrity(path: Path) -> str:
    """The hash of a file as browsers compare it (Subresource Integrity)."""
    return f"sha384-{base64.b64encode(hashlib.sha384(path.read_bytes()).digest()).decode()}"


def _copy(source: Path, target: Path):
    with replacing(target) as unfinished:
        shutil.copyfile(source, unfinished)
