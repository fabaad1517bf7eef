"""What the README and the other documents say can be done, can be done: their Python runs, their links and files are there."""

import contextlib
import importlib
import io
import os
import re
import shlex
from pathlib import Path

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
@pytest.mark.parametrize(
    "document", ["README.md", "docs/chapter.md", "docs/few-steps.md", "docs/index.md", "docs/share.md", "docs/use.md"]
)
def test_the_python_of_a_document_runs_from_top_to_bottom(document, tmp_path):
    """In one process, in a folder with two photographs, with the Hub on the loopback."""
    for name, colour in (("rose.jpg", "firebrick"), ("tulip.jpg", "gold")):
        Image.new("RGB", (80, 60), colour).save(tmp_path / name)
    server = HubServer()
    try:
        code = "\n".join(blocks(document, "python"))
        # The system's path too, for the compiler.
        completed = run_python(code, home=tmp_path, hub=server.url, HF_TOKEN=TOKEN, PATH=os.environ["PATH"])
    finally:
        server.shutdown()
    assert completed.returncode == 0, completed.stderr
    if "push_to_hub" in code:
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


def help_of(command, *verb):
    """What a script prints, or a command that has none, in this process: each would import PyTorch anew."""
    script = ROOT / command
    module = re.search(r"flower_ddim\.commands\.\w+", script.read_text())[0] if script.is_file() else command
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        importlib.import_module(module).main([*verb, "--help"])
    return printed.getvalue()


OF_OTHER_PROGRAMS = {
    "accelerate": {
        "--cpu",
        "--main_process_ip",
        "--main_process_port",
        "--num_cpu_threads_per_process",
        "--num_processes",
    },
    "pip, torchrun": {"--index-url", "--nproc_per_node", "--standalone"},
}


def verbs_of(script):
    """The verbs that a script's first argument chooses among; none where it has but one parser."""
    listed = re.search(r"^  \{([\w,]+)\}$", help_of(script), re.M)
    return listed[1].split(",") if listed else []


def test_every_option_that_is_named_is_one():
    """In commands, of the script and its verb; elsewhere, of any script or command."""
    helps = {}
    for path in (ROOT / "scripts").glob("*.py"):
        script = f"scripts/{path.name}"
        keys = [(script, verb) for verb in verbs_of(script)] or [(script,)]
        helps |= {key: help_of(*key) for key in keys}
    helps |= {command: help_of(f"flower_ddim.commands.{command}") for command in ("export", "web")}  # without a script
    all_mentioned = set()
    for document in DOCUMENTS:
        for script, *words in commands(document):
            key = (script, words[0]) if (script,) not in helps else (script,)
            options = [word for word in words if word.startswith("--")]
            assert all(re.search(rf"{option}\b", helps[key]) for option in options), (document, key, options)
        mentioned = set(re.findall(r"`[^`\n]*?(--[a-z][\w-]+)", (ROOT / document).read_text()))
        mentioned -= set().union(*OF_OTHER_PROGRAMS.values())
        unknown = {option for option in mentioned if not any(re.search(rf"{option}\b", h) for h in helps.values())}
        assert not unknown, document
        all_mentioned |= mentioned
    assert len(all_mentioned) > 20


def test_targets_of_make_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / document).read_text(), re.M))
        assert all(f"\n{target}:" in makefile for target in named), (document, named)


def test_sections_that_are_linked_are_there():
    linked = 0
    for document in DOCUMENTS:
        for path, section in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", (ROOT / document).read_text()):
            text = ((ROOT / document).parent / (path or Path(document).name)).read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.M)
            names = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in headings}
            assert section in names, (document, path)
            linked += 1
    assert linked > 5


def test_the_readme_is_a_screen_and_a_half():
    """And no document has prose in lines that a terminal or a review would fold."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
    for document in DOCUMENTS:
        prose = re.sub(
            r"^```.*?^```|<!-- (\w[\w-]*) -->.*?<!-- /\1 -->", "", (ROOT / document).read_text(), flags=re.M | re.S
        )
        folded = [line for line in prose.splitlines() if len(line) > 132 and not line.startswith(("|", "!["))]
        assert not folded or document == "model_card.md", document
