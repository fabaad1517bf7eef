"""What the README and the other documents say can be done, can be done: their Python runs, their links and files are there."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from hub_server import TOKEN, HubServer
from outside import run_python
from PIL import Image


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "model_card.md"]
DOCUMENTS += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)


@pytest.mark.slow
def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path):
    """In one process, in a folder with two photographs, with the Hub on the loopback."""
    for name, colour in (("rose.jpg", "firebrick"), ("tulip.jpg", "gold")):
        Image.new("RGB", (80, 60), colour).save(tmp_path / name)
    server = HubServer()
    try:
        code = "\n".join(blocks("README.md", "python"))
        # The system's path too, for the compiler.
        completed = run_python(code, home=tmp_path, hub=server.url, HF_TOKEN=TOKEN, PATH=os.environ["PATH"])
    finally:
        server.shutdown()
    assert completed.returncode == 0, completed.stderr
    assert "README.md" in server.model("me/my-flowers").files
    assert (tmp_path / "my-flowers" / "model_index.json").is_file()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    text = (ROOT / document).read_text()
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = {target for target in targets if target and "://" not in target}
    missing = {target for target in local if not ((ROOT / document).parent / target).exists()}
    assert not missing
    if document == "README.md":
        assert len(local) > 10


def test_every_script_and_recipe_that_is_named_is_there():
    for document in DOCUMENTS:
        named = set(
            re.findall(
                r"\b(?:scripts|recipes|tests|notebooks)/[\w./-]+\.(?:py|yaml|ipynb)", (ROOT / document).read_text()
            )
        )
        # Recipes come with the package, and their old paths mean those.
        places = (
            ROOT / "src" / "flower_ddim" / path if path.startswith("recipes/") else ROOT / path for path in named
        )
        assert all(place.is_file() for place in places), document


def commands(document):
    """The commands in blocks that run our scripts, each as a list of words, without comments."""
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        script = next((i for i, word in enumerate(words) if word.startswith("scripts/")), None)
        if script is not None:
            yield words[script:]


def help_of(script, *verb):
    command = [sys.executable, ROOT / script, *verb, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_every_option_that_is_named_is_one():
    """In commands, of the script and its verb; elsewhere in the README, of any script."""
    helps = {}
    for document in DOCUMENTS:
        for script, *words in commands(document):
            key = (script, *(word for word in words[:1] if script in ("scripts/evaluate.py", "scripts/benchmark.py")))
            helps[key] = helps.get(key) or help_of(*key)
            options = [word for word in words if word.startswith("--")]
            assert all(re.search(rf"{option}\b", helps[key]) for option in options), (document, key, options)
    mentioned = set(re.findall(r"`[^`\n]*?(--[a-z]\w+)", (ROOT / "README.md").read_text()))
    mentioned -= {
        "--index-url",
        "--num_cpu_threads_per_process",
        "--cpu",
        "--num_processes",
    }  # of pip and of accelerate
    mentioned -= {"--standalone", "--nproc_per_node"}  # of torchrun
    for script in ("app", "figures", "generate", "interpolate", "model_card"):
        helps[script] = help_of(f"scripts/{script}.py")
    assert len(mentioned) > 20
    assert not {option for option in mentioned if not any(re.search(rf"{option}\b", text) for text in helps.values())}


def test_targets_of_make_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / document).read_text(), re.M))
        assert all(f"\n{target}:" in makefile for target in named), (document, named)


def test_sections_that_are_linked_are_there():
    text = (ROOT / "README.md").read_text()
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)
    }
    linked = set(re.findall(r"\]\(#([\w-]+)\)", text))
    assert len(linked) > 5 and linked <= headings
