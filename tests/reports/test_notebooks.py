"""The notebooks run from top to bottom, and hold what they showed then, small enough to read on a code host."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "reports" / "notebooks").glob("*.ipynb"))
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def with_few_examples(notebook):
    """The same behind whose cell of parameters (tag "parameters", as papermill reads it) each number is a third."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if "parameters" in cell.metadata.get("tags", ()):
            names = [node.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
            cells.append(nbformat.v4.new_code_cell("\n".join(f"{name} = max(2, {name} // 3)" for name in names)))
    notebook.cells = cells
    return notebook


@pytest.mark.real
@named
def test_notebook_runs(path, smollm2, monkeypatch):
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    notebook = with_few_examples(nbformat.read(path, as_version=4))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    drawn = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(drawn) >= 2


@named
def test_notebook_was_run_and_shows_still_figures(path):
    assert path.stat().st_size <= 300_000
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) >= 2
    assert not any(output.output_type in ("error", "stream") and output.get("name") != "stdout" for output in outputs)
    for output in outputs:
        data = output.get("data", {})
        assert "application/vnd.plotly.v1+json" not in data
        assert "<script" not in data.get("text/html", "")
        assert not any("widget" in form for form in data)
