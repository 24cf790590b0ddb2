"""A finished run in Jupyter: its record, its tables as DataFrames, its figures. No torch, no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from ..data.errors import ReportError
from .pages.page import run_figures, sample_size
from .pages.runs import Run, read_run


class Figures(dict[str, go.Figure]):
    """Figures by name, shown as their names; KeyError names the run and what it has."""

    def __init__(self, figures: Mapping[str, go.Figure], run: str) -> None:
        super().__init__(figures)
        self._run = run

    def __missing__(self, name: str) -> go.Figure:
        raise KeyError(f"no figure {name!r} in {self._run}: {', '.join(self)}")

    def __repr__(self) -> str:
        return f"Figures({', '.join(self)})"


@dataclass(frozen=True, eq=False, repr=False)
class OpenedRun(Run):
    """`run["effects"]` is a table, `list(run)` names them all; `run.figures["effects"]` is a plotly figure of its page.

    KeyError names the run and what it has.
    """

    def __getitem__(self, table: str) -> pd.DataFrame:
        if table not in self.tables:
            raise KeyError(f"no table {table!r} in {self.name}: {', '.join(self.tables)}")
        return self.tables[table]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables)

    @cached_property
    def figures(self) -> Figures:
        """The figures of the run's page by name."""
        return Figures(run_figures(self)[0], self.name)

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
    path = Path(path)
    try:
        run = read_run(path)
    except ReportError as error:
        raise ReportError(f"{path}: {error}{_runs_under(path)}") from None
    return OpenedRun(run.name, run.record, run.tables, run.files)


def _runs_under(path: Path) -> str:
    """The runs that lie in `path`, or beside it where it is not there; nothing where there are none."""
    place = path if path.is_dir() else path.parent
    names = [one.parent.name for one in sorted(place.glob("*/record.json"))]
    return f"; runs in {place}: {', '.join(names)}" if names else ""
