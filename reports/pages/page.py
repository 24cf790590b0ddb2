"""One page per run: its claims, figures, tables, downloads, provenance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.io import json as plotly_json

from .. import figures
from ..charts.style import number
from ..figures import default
from ..figures.drawing import matching
from .runs import Run

LONG = 300  # characters of a parameter
ROWS = 200  # shown under a figure; the downloads hold them all
TOLD = ["subject", "task", "analysis"]  # said once on the page, not in every row
Drawn = tuple[dict[str, go.Figure], list[str]]  # figures by name, notes on what could not be drawn
HERE = Path(__file__).parent


def environment() -> jinja2.Environment:
    """The templates; everything that is not markup of ours is escaped."""
    loader = jinja2.FileSystemLoader(HERE / "templates")
    env = jinja2.Environment(loader=loader, autoescape=True)
    env.trim_blocks = env.lstrip_blocks = True
    env.globals["form"] = prompt_form
    env.filters["portable"] = portable
    return env


def portable(text: Any) -> str:
    """A text without the directories of one machine: "--out /home/me/out" -> "--out out". Addresses stay."""
    return re.sub(r"(?<![\w:/.~])~?/(?:[^\s/,'\"]+/)*(?=[^\s/])", "", str(text))


def render(run: Run, drawn: Drawn, pngs: Mapping[str, str] | None = None) -> str:
    """The HTML of one run with its figures. pngs: figure name -> address of its static image."""
    figures, trouble = drawn
    slugs = unique_slugs(figures)
    blocks = [figure_block(slugs[n], figure, run, (pngs or {}).get(n)) for n, figure in figures.items()]
    shown = {block["table"]["name"] for block in blocks if block["table"]}
    others = [table_block(n, t) for n, t in run.tables.items() if n not in shown and n != "claims"]
    return (
        environment()
        .get_template("page.html")
        .render(
            run=run,
            record=run.record,
            size=sample_size(run.record["task"]),
            claims=run.claims,
            spoken=_spoken(run),
            figures=blocks,
            others=others,
            notes=_notes(run.record) + trouble,
            facts=list(_flat(run.record)),
        )
    )


# Verdict -> what it says of a paper's statement, and of a bar that this project set itself.
VERDICTS = {
    "holds": ("Agrees with the papers", "Passes bars of this project's own"),
    "holds, and so does the control": ("Holds, but its control does as well", "Passes, but its control does as well"),
    "fails": ("Does not agree", "Does not pass"),
    "undecidable here": ("Not decided by these numbers",) * 2,
    "not testable": ("Not testable here",) * 2,
}


def in_words(claims: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(verdict in words, the statements with it) for the verdicts that occur; thresholds are left to the table."""
    said: dict[str, dict[str, None]] = {words: {} for pair in zip(*VERDICTS.values(), strict=True) for words in pair}
    for claim in claims:
        words = VERDICTS.get(claim["verdict"])
        if words:
            said[words["arXiv" not in str(claim.get("source", ""))]][_statement(claim["text"])] = None
    return [(words, "; ".join(statements) + ".") for words, statements in said.items() if statements]


def _statement(text: str) -> str:
    """What a claim says before its test: up to the colon, if that is a sentence, else without what is in brackets."""
    head, _, _ = text.partition(": ")
    head = head if len(head.split()) > 3 else text.rpartition(" (")[0] or text
    return head.rstrip(".")


def _spoken(run: Run) -> list[tuple[str, str]]:
    """The claims in words; of each condition apart where the run has several."""
    conditions = list(dict.fromkeys(claim.get("condition", "") for claim in run.claims))
    if len(conditions) < 2:
        return in_words(run.claims)
    of = {name: [claim for claim in run.claims if claim["condition"] == name] for name in conditions}
    return [(f"{words}, {name}", said) for name in conditions for words, said in in_words(of[name])]


def prompt_form(record: Mapping[str, Any]) -> str:
    """How prompts were put to the model: "chat template, BOS and no BOS", as far as the record says so."""
    templates = {"raw": "plain text", "chat": "chat template"}
    template = record["task"].get("template")
    parts = (templates.get(template, template), " and ".join(record.get("conditions") or []))
    return ", ".join(part for part in parts if part) or "form unknown"


def _notes(record: Mapping[str, Any]) -> list[str]:
    notes = record.get("notes") or []
    return [str(note) for note in notes] if isinstance(notes, list) else [str(notes)]


def drawer(analysis: str) -> Callable[[dict[str, pd.DataFrame]], dict[str, go.Figure]]:
    """What draws the tables of an analysis: the figures of its own module, else the default ones."""
    module = f"{figures.__name__}.{analysis}"
    if analysis.isidentifier() and find_spec(module):
        return getattr(import_module(module), "figures", default.figures)
    return default.figures


def run_figures(run: Run) -> Drawn:
    """The figures of a run, and a note where its analysis' own ones fail."""
    draw = drawer(run.record["analysis"])
    tables = {name: table for name, table in run.tables.items() if name != "claims"}
    try:
        return draw(tables), []
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        note = f"The figures of this analysis could not be drawn ({type(error).__name__}: {error})."
    try:
        return default.figures(tables), [f"{note} Below is what its columns show."]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return {}, [f"{note} Below are its tables."]


def figure_block(name: str, figure: go.Figure, run: Run | None, png: str | None = None) -> dict[str, Any]:
    """What the template needs for one figure."""
    meta = dict(figure.layout.meta or {})
    table = None
    if run is not None and meta.get("table") in run.tables:
        table = table_block(meta["table"], run.tables[meta["table"]], meta.get("where"))
    return {
        "id": f"fig-{name}",
        "title": meta.get("title") or name,
        "caption": meta.get("caption", ""),
        "height": int(figure.layout.height or 420),
        "min_width": int(meta.get("min_width", 0)),
        "json": figure_json(without_words(figure)),
        "table": table,
        "png": png,
    }


def unique_slugs(names: Iterable[str]) -> dict[str, str]:
    """Names as they can stand in an address, no two alike: "top 1" -> "top-1"."""
    slugs: dict[str, str] = {}
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "figure"
        slugs[name] = slug if slug not in slugs.values() else f"{slug}-{len(slugs)}"
    return slugs


def without_words(figure: go.Figure) -> dict[str, Any]:
    """The figure as plain data, without title and caption: the page says them in its own letters."""
    data = figure.to_plotly_json()
    layout = {k: v for k, v in data["layout"].items() if k not in ("title", "meta")}
    layout["margin"] = {**layout.get("margin", {}), "t": 58}  # room for the mode bar above the panels' titles
    return {"data": data["data"], "layout": layout}


def figure_json(figure: dict[str, Any]) -> Markup:
    """A figure as JSON that can stand in a script element: no character there can close the element."""
    text = plotly_json.to_json_plotly(figure, engine="json") or ""
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def table_block(
    name: str, table: pd.DataFrame, where: Mapping[str, Any] | None = None, limit: int = ROWS
) -> dict[str, Any]:
    """The first rows of a table (those that a figure draws), numbers made short."""
    rows = matching(table, where or {})
    rows = rows.drop(columns=[c for c in TOLD if c in rows])
    shown = [[_cell(value) for value in row] for row in rows.head(limit).itertuples(index=False, name=None)]
    return {"name": name, "columns": list(rows.columns), "rows": shown, "count": len(rows), "all": len(table)}


def _cell(value: Any) -> dict[str, Any]:
    """The text of a cell and whether it is a number."""
    if isinstance(value, str) and value.startswith("data:image/"):
        return {"text": "(picture)", "number": False}
    if isinstance(value, str):
        return {"text": value, "number": False}
    if pd.api.types.is_number(value) and not isinstance(value, bool):
        text = number(value).replace(",", "")
        return {"text": "–" if text == "missing" else text, "number": True}
    return {"text": "–" if value is None or value is pd.NaT else str(value), "number": False}


def sample_size(task: Mapping[str, Any]) -> str:
    """ "n = 64 in 12 groups" as far as the record says so."""
    if not isinstance(task.get("n"), int):
        return "n unknown"
    groups = task.get("n_groups")
    return f"n = {task['n']:,}" + (f" in {groups:,} groups" if isinstance(groups, int) else "")


def _flat(value: Any, name: str = ""):
    """The record as (dotted name, text), in its own order."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif name not in ("title", "question", "methods", "notes", "command", "location") and "reopen." not in name:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        text = text if len(text) <= LONG else f"{text[:LONG]} … (record.json has it all)"
        text = portable(text)
        yield name, "–" if text in ("", "{}", "None") else text
