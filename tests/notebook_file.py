"""Executes the notebook; run as a program, it stores the outputs in it (`make notebook`)."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient


PATH = Path(__file__).parents[1] / "notebooks" / "flower_ddim.ipynb"


def executed(more_code: list[str] = ()) -> nbformat.NotebookNode:
    """The notebook with its outputs, and `more_code` in cells behind its own; without progress bars and warnings."""
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in more_code]
    resources = {"metadata": {"path": PATH.parent}}
    options = {"timeout": 1200, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=resources, **options).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), PATH)
