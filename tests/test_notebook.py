"""The notebook runs from its first to its last cell, and shows what it talks about."""

import re

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


PATH = ROOT / "notebooks" / "flower_ddim.ipynb"


@pytest.mark.slow
def test_notebook_runs_and_every_figure_appears():
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": PATH.parent}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.splitlines()[-1].startswith("figures."):
            shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            assert len(shown) == 1, cell.source
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert re.search(
        r"power +tensor\(\[1\.0*, 1\.0*, 1\.0*\]\)", printed
    )  # exact ones are printed without their zeros


def test_notebook_is_kept_without_results():
    notebook = nbformat.read(PATH, as_version=4)
    assert all(
        not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code"
    )
