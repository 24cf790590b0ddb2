"""Runs notebooks in place with still figures, which a code host shows: python reports/notebooks/run.py FILE…"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

BAR = "application/vnd.jupyter.widget-view+json"


def run(path: Path) -> None:
    """Execute from top to bottom; what is kept are results, not progress."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, kernel_name="python3", store_widget_state=False).execute()
    nbformat.write(light(notebook), path)


def light(notebook: Any) -> Any:
    """The notebook without progress bars, which say nothing once they are full, and without times of execution; of a
    picture in two forms the lighter one.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if BAR not in output.get("data", {})]
            for data in (output.data for output in cell.outputs if "data" in output):
                forms = sorted({"image/png", "image/jpeg"} & data.keys(), key=lambda form: len(data[form]))
                for heavier in forms[1:]:
                    del data[heavier]
    return notebook


if __name__ == "__main__":
    os.environ["PLOTLY_RENDERER"] = "svg"
    for name in sys.argv[1:]:
        print(name, flush=True)
        run(Path(name))
