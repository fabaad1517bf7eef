"""The optional parts of the package, and how they are installed."""

import shlex
from pathlib import Path


# What is not installed for everybody -> the extra that brings it. Commands import these inside `main`.
EXTRAS = {"matplotlib": "figures", "gradio": "app", "h5py": "keras", "keras": "keras"}
EXTRAS |= {"onnx": "onnx", "onnxscript": "onnx", "playwright": "browser", "sklearn": "metrics"}


def install_command(extra: str) -> str:
    """pip's command for an extra; in a clone of the repository with the tested versions."""
    clone = Path(__file__).parents[2]
    if not (clone / "constraints.txt").is_file():
        return f"pip install 'flower-ddim[{extra}]'"
    package, constraints = (shlex.quote(str(path)) for path in (f"{clone}[{extra}]", clone / "constraints.txt"))
    return f"pip install -e {package} -c {constraints}"
