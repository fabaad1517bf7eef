"""Writes a Hugging Face Space: a folder with a page, a model, and what they need.

A static one shows the page of `flower_ddim.web`, which generates in the visitor's browser, and costs nothing. One of Gradio runs
the page of `flower_ddim.app` on a machine of the Hub, for which its owner needs a paid account.
"""

import importlib.metadata
from pathlib import Path

from huggingface_hub import RepoCard, SpaceCardData

from ..extras import install_command
from ..pipelines.inlining import standalone_source
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.files import write_text
from ..storage.hub_cards import marked
from ..web.serving import ISOLATION
from ..web.site import write_site


# The dependencies of this package that the exported files import.
NEEDED = ("torch", "diffusers", "accelerate", "safetensors", "numpy", "Pillow", "gradio")

MAIN = """

if __name__ == "__main__":
    serve_folder(Path(__file__).parent / "model")
"""

STATIC_DESCRIPTION = """
# {title}

A page on which a small diffusion model generates in your browser: no server computes anything. To see it at home:

```bash
python -m http.server
```

The code is that of flower_ddim, under Apache-2.0; the runtime is onnxruntime-web, under MIT, which the page fetches from a public
server and checks. The licence of the model is that of whoever trained it.
"""

DESCRIPTION = """
# {title}

A page to try a small diffusion model: generate, watch, interpolate, find the noise behind a photograph. To run it at home:

```bash
pip install -r requirements.txt
python app.py
```

The code is that of flower_ddim, under Apache-2.0; the licence of the model is that of whoever trained it.
"""


def write_static_space(pipe: FlowerDDIMPipeline, folder: str | Path, title: str) -> list[Path]:
    """Writes the page of [`write_site`] and a `README.md` with its settings into an empty folder; returns the files."""
    folder = Path(folder)
    write_site(pipe, folder)
    headers = {name.lower(): value for name, value in ISOLATION.items()}
    return _with_card(folder, STATIC_DESCRIPTION, title=title, sdk="static", custom_headers=headers)


def write_gradio_space(pipe: FlowerDDIMPipeline, folder: str | Path, title: str) -> list[Path]:
    """Writes `app.py`, `requirements.txt`, `README.md` and the pipeline in `model/` into an empty folder; returns the files.

    The files do not need this package.

    Raises:
        ValueError: if Gradio is not installed: the Space runs the installed version.
    """
    folder = Path(folder)
    try:
        gradio_version = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError as error:
        hint = install_command("app")
        raise ValueError(
            f"A Space runs the version of Gradio that is installed here, and there is none: {hint}"
        ) from error
    pipe.save_pretrained(folder / "model")
    page = Path(__file__).parents[1] / "app" / "page.py"
    (folder / "app.py").write_text(standalone_source(page) + MAIN, encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()))
    return _with_card(folder, DESCRIPTION, title=title, sdk="gradio", sdk_version=gradio_version, app_file="app.py")


def _with_card(folder: Path, description: str, **settings) -> list[Path]:
    """Adds the `README.md` with the settings of a Space to its folder; returns all files."""
    text = RepoCard(f"---\n{SpaceCardData(**settings).to_yaml()}\n---\n{description.format(title=settings['title'])}")
    write_text(folder / "README.md", marked(str(text)))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _requirements() -> list[str]:
    """The dependencies of this package, extras included, that the Space needs, one a line."""
    lines = [line.partition(";")[0].strip() for line in importlib.metadata.requires("flower-ddim")]
    names = {line: line.partition(">")[0].partition("<")[0].partition("=")[0] for line in lines}
    return [line for line in lines if names[line] in NEEDED]
