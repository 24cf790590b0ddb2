"""The README's picture: the strongest finding of a report with its figure, for light and dark pages."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
from markupsafe import escape

from ...data.errors import ReportError
from ..charts.style import layout_of
from .page import run_figures
from .runs import Run, read_runs

NIGHT = {"paper_bgcolor": "#0d1117", "plot_bgcolor": "#0d1117", "font_color": "#e6edf3"}
WIDTH, HEIGHT = 1200, 630


def cover(runs: list[Run], analysis: str) -> go.Figure:
    """The figure of the first finding of an analysis' first run that found something, with the finding as its title.

    ReportError: there is none.
    """
    for run in (run for run in runs if run.record["analysis"] == analysis):
        found = next((one for one in run.findings if one["state"] == "found"), None)
        figures = run_figures(run)[0]
        if found is None or found["figure"] not in figures:
            continue
        said = "<br>".join(textwrap.wrap(str(escape(found["text"])), 84))
        about = f"{run.model} · {run.record['task'].get('title') or run.record['task']['name']} · {run.name}"
        figure = go.Figure(figures[found["figure"]])
        layout_of(figure).updatemenus = ()  # a picture has no buttons
        title = {"text": f"<b>{said}</b><br><sup>{escape(about)}</sup>", "font_size": 24, "y": 0.95, "yanchor": "top"}
        margin = {"t": 150, "l": 80, "r": 130, "b": 70}
        return figure.update_layout(title=title, font_size=17, margin=margin, width=WIDTH, height=HEIGHT)
    raise ReportError(f"no run of {analysis} with a finding: make figures first")


def write(out: Path, place: Path, analysis: str = "circuits") -> list[Path]:
    """cover-light.svg and cover-dark.svg in `place`, from the runs in `out`; needs kaleido and Chromium."""
    figure = cover(read_runs(out / "runs")[0], analysis)
    paths = [place / f"cover-{name}.svg" for name in ("light", "dark")]
    pio.write_images(
        [figure, go.Figure(figure).update_layout(NIGHT)], [str(path) for path in paths], width=WIDTH, height=HEIGHT
    )
    return paths


if __name__ == "__main__":
    print(*write(Path(sys.argv[1]), Path(__file__).parents[1]))
