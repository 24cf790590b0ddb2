"""The gallery: the models, the strongest findings of all runs, what was asked of which model, and every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from ..charts.style import meta_of
from .abilities import models
from .blocks import figure_json, unique_slugs, without_words
from .matrix import matrix
from .page import Drawn
from .runs import Run
from .verdicts import counts, untestable
from .words import ARXIV, environment, task_words

STRONGEST = 8  # findings on the first screen
SMALL = 150  # px, the height of a preview


def index(runs: list[Run], drawn: dict[str, Drawn], notes: list[str], links: Sequence[tuple[str, str]] = ()) -> str:
    """The HTML of the gallery. drawn: run name -> figures; notes: a line for each directory left out.

    links: (address, title) of pages that join several runs.
    """
    cards = [_card(run, drawn[run.name][0]) for run in runs]
    return (
        environment()
        .get_template("index.html")
        .render(
            cards=cards,
            notes=notes,
            links=links,
            heads=any(address == "head.html" for address, _ in links),
            models=models(runs),
            findings=strongest(runs, drawn),
            matrix=matrix(runs),
            choices=_choices(cards),
        )
    )


def strongest(runs: Sequence[Run], drawn: Mapping[str, Drawn]) -> list[dict[str, Any]]:
    """The findings that hold, by rank; each run's second only after the first of all others."""
    found = [
        (place, -_rank(one), run.name, run, one)
        for run in runs
        for place, one in enumerate(one for one in run.findings if one.get("state") == "found")
    ]
    best = sorted(found, key=lambda item: item[:3])[:STRONGEST]
    return [_finding(run, one, drawn[run.name][0]) for _, _, _, run, one in best]


def _rank(finding: Mapping[str, Any]) -> float:
    rank = finding.get("rank")
    return float(rank) if isinstance(rank, (int, float)) and rank == rank else 0.0


def _finding(run: Run, found: Mapping[str, Any], figures: dict[str, go.Figure]) -> dict[str, Any]:
    name = str(found.get("figure"))
    figure = figures.get(name)
    slug = unique_slugs(figures).get(name)
    return {
        **found,
        "run": run,
        "at": f"fig-{slug}-box" if slug else "",
        "id": f"preview-{run.name}-{slug}",
        "alt": "" if figure is None else str(meta_of(figure).get("title", "")),
        "json": None if figure is None else figure_json(preview(figure)),
        "facts": _facts(run),
    }


def _facts(run: Run) -> dict[str, str]:
    """What the gallery filters by."""
    sources = " ".join([str(run.record.get("paper", "")), *(str(claim.get("source", "")) for claim in run.claims)])
    words = [run.name, run.title, run.headline, sources, str(run.record.get("question", ""))]
    words += [str(one.get(key, "")) for one in run.findings for key in ("text", "heads")]
    words += [str(one.get("text", "")) for one in run.claims]
    return {
        "model": run.model,
        "kind": str(run.record["subject"].get("kind") or ""),
        "task": task_words(run.record["task"]),
        "paper": " ".join(dict.fromkeys(ARXIV.findall(sources))),
        "verdict": "|".join(dict.fromkeys(str(claim.get("verdict")) for claim in run.claims)),
        "words": " ".join(words).casefold(),
    }


def _card(run: Run, figures: dict[str, go.Figure]) -> dict[str, Any]:
    return {
        "run": run,
        "record": run.record,
        "figures": len(figures),
        "counts": counts(run.claims),
        "warnings": untestable(run.claims, run.findings),
        "facts": _facts(run),
    }


def _choices(cards: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What there is to filter by; a list of one is no choice."""
    facts = [card["facts"] for card in cards]
    found = {name: {fact[name] for fact in facts} for name in ("model", "kind", "task")}
    found |= {"verdict": {v for fact in facts for v in fact["verdict"].split("|")}}
    found |= {"paper": {p for fact in facts for p in fact["paper"].split()}}
    return {name: sorted(values - {""}) for name, values in found.items() if len(values - {""}) > 1}


def preview(figure: go.Figure) -> dict[str, Any]:
    """The figure without words, small: what it looks like, not what it says."""
    small = without_words(figure)
    layout = small["layout"]
    layout |= {"showlegend": False, "height": SMALL, "hovermode": False, "annotations": [], "updatemenus": []}
    layout["margin"] = {"l": 8, "r": 8, "t": 8, "b": 8}
    for name in [key for key in layout if key.startswith(("xaxis", "yaxis"))]:
        mute = {"showticklabels": False, "ticks": "", "automargin": False, "title": {"text": ""}}
        layout[name] = {**layout[name], **mute}
    for trace in small["data"]:
        for words in ("hovertext", "customdata", "hovertemplate", "text"):
            trace.pop(words, None)
        trace |= {"showscale": False} if trace["type"] == "heatmap" else {}
        trace |= {"mode": "markers"} if trace.get("mode") in ("text", "markers+text") else {}
    return small
