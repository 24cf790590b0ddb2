"""A finished run in Jupyter: its record, its tables as DataFrames, its figures. No torch, no model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from .pages.page import run_figures, sample_size
from .pages.runs import Run, read_run


@dataclass(frozen=True, eq=False, repr=False)
class OpenedRun(Run):
    """`run["heads"]` is a table, `run.tables` are all; `run.figures["heads-l2"]` is a plotly figure of its page."""

    def __getitem__(self, table: str) -> pd.DataFrame:
        if table not in self.tables:
            raise KeyError(f"no table {table!r} in {self.name}: {', '.join(self.tables)}")
        return self.tables[table]

    @cached_property
    def figures(self) -> dict[str, go.Figure]:
        """The figures of the run's page by name."""
        return run_figures(self)[0]

    def __repr__(self) -> str:
        return f"Run({self._facts}; tables: {', '.join(self.tables)})"

    def _repr_html_(self) -> str:
        lines = (_line(name, table) for name, table in self.tables.items())
        head = "<tr><th>table</th><th>rows</th><th>columns</th></tr>"
        return f"<p>{escape(self._facts)}</p><table>{head}{''.join(lines)}</table>"

    @property
    def _facts(self) -> str:
        subject, task = self.record["subject"].get("name"), self.record["task"]
        return f"{self.record['analysis']} of {subject} on {task.get('name')}, {sample_size(task)}"


def _line(name: str, table: pd.DataFrame) -> str:
    cells = (name, f"{len(table):,}", ", ".join(map(str, table.columns)))
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def open_run(path: str | Path) -> OpenedRun:
    """The finished run in directory `path`. ReportError: incomplete, unreadable, or no run."""
    run = read_run(Path(path))
    return OpenedRun(run.name, run.record, run.tables, run.files)
