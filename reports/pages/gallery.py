"""The gallery: a card per run, and all claims with their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from .page import VERDICTS, Drawn, environment, figure_json, sample_size, without_words
from .runs import Run


def index(runs: list[Run], drawn: dict[str, Drawn], notes: list[str], links: Sequence[tuple[str, str]] = ()) -> str:
    """The HTML of the gallery. drawn: run name -> figures; notes: a line for each directory left out.

    links: (address, title) of pages that join several runs.
    """
    cards = [_card(run, drawn[run.name][0]) for run in runs]
    return environment().get_template("index.html").render(cards=cards, notes=notes, links=links)


def claims(runs: list[Run]) -> str:
    """The HTML of all claims, grouped by subject."""
    subjects: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        rows = [{**claim, "run": run} for claim in run.claims]
        subjects.setdefault(str(run.record["subject"].get("name", "?")), []).extend(rows)
    groups = [{"subject": s, "claims": rows, "counts": _counts(rows)} for s, rows in sorted(subjects.items()) if rows]
    return environment().get_template("claims.html").render(groups=groups)


def _card(run: Run, figures: dict[str, go.Figure]) -> dict[str, Any]:
    first = next(iter(figures.values()), None)
    return {
        "run": run,
        "record": run.record,
        "size": sample_size(run.record["task"]),
        "figures": len(figures),
        "counts": _counts(run.claims),
        "id": f"preview-{run.name}",
        "alt": "" if first is None else (first.layout.meta or {}).get("title", ""),
        "json": None if first is None else figure_json(preview(first)),
    }


def _counts(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Verdicts with their numbers, the known ones first and in their order."""
    found = Counter(str(row.get("verdict")) for row in rows)
    return [(verdict, found.pop(verdict)) for verdict in VERDICTS if verdict in found] + sorted(found.items())


def preview(figure: go.Figure) -> dict[str, Any]:
    """The figure without words, small: what it looks like, not what it says."""
    small = without_words(figure)
    layout = small["layout"]
    layout |= {"showlegend": False, "height": 190, "hovermode": False, "annotations": []}
    layout["margin"] = {"l": 8, "r": 8, "t": 8, "b": 8}
    for name in [key for key in layout if key.startswith(("xaxis", "yaxis"))]:
        mute = {"showticklabels": False, "ticks": "", "automargin": False, "title": {"text": ""}}
        layout[name] = {**layout[name], **mute}
    for trace in small["data"]:
        trace.pop("hovertext", None)
        trace |= {"showscale": False} if trace["type"] == "heatmap" else {}
    return small
