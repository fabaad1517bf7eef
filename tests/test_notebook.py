"""The notebook runs from its first to its last cell, shows what it talks about, and is stored with what it shows."""

import re

import nbformat
import pytest
from conftest import ROOT
from notebook_file import PATH, executed


def cells(notebook, kind="code"):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def shown(cell):
    """What a cell shows: kinds of outputs, and of pictures and texts."""
    return [sorted(output.get("data", {"text": ""})) for output in cell.outputs]


def text(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def solutions(notebook):
    folded = [cell for cell in cells(notebook, "markdown") if "<details>" in cell.source]
    return [code for cell in folded for code in re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL)]


@pytest.mark.slow
def test_the_notebook_and_its_solutions_run_and_show_what_is_stored():
    stored = nbformat.read(PATH, as_version=4)
    notebook = executed(solutions(stored))
    for cell, kept in zip(cells(notebook), cells(stored), strict=False):
        assert [output.output_type for output in cell.outputs] == [output.output_type for output in kept.outputs]
        assert shown(cell) == shown(kept), cell.source
        if cell.source.splitlines()[-1].startswith("figures."):
            assert ["image/png", "text/plain"] in shown(cell), cell.source
    printed = "".join(map(text, cells(notebook)))
    assert re.search(r"power +tensor\(\[1\.0*, 1\.0*, 1\.0*\]\)", printed)  # exact ones are printed without zeros
    losses = [float(loss) for loss in re.findall(r"steps .*: loss ([\d.]+)", printed)]
    assert losses[0] < 0.5 and losses == sorted(losses, reverse=True)
    differences = [float(number) for number in re.findall(r"\d+ steps: ([\d.]+)", printed)]
    assert len(differences) == 5 and differences == sorted(differences, reverse=True)


def test_the_notebook_is_stored_with_its_outputs_and_is_small():
    notebook = nbformat.read(PATH, as_version=4)
    assert [cell.execution_count for cell in cells(notebook)] == list(range(1, len(cells(notebook)) + 1))
    assert all(output.output_type != "error" for cell in cells(notebook) for output in cell.outputs)
    assert PATH.stat().st_size <= 3_000_000
    assert len(solutions(notebook)) == 4


def test_sections_that_the_table_of_the_chapter_names_are_in_the_notebook():
    notebook = nbformat.read(PATH, as_version=4)
    headings = {
        line.lstrip("# ")
        for cell in cells(notebook, "markdown")
        for line in cell.source.splitlines()
        if line.startswith("##")
    }
    tables = (ROOT / "docs" / "chapter.md").read_text().partition("## Your own")[0]
    rows = [row.strip("| ").split(" | ") for row in tables.splitlines() if re.match(r"\| 8-", row)]
    assert len(rows) == 27 and {row[-1] for row in rows} <= headings
