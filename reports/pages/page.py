"""One page per run: what it found, its key figure beside one prompt, claims, the other figures folded by theme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from .. import figures
from ..figures import default
from .blocks import KEY_HEIGHT, figure_block, figure_json, places_of_claims, unique_slugs, without_words
from .example import example_of
from .runs import Run
from .tables import table_block
from .verdicts import drawn as drawn_claims
from .verdicts import in_words, untestable
from .words import environment, portable, prompt_form, sample_size

__all__ = ["drawer", "environment", "figure_block", "figure_json", "in_words", "portable", "prompt_form", "render"]
__all__ += ["run_figures", "sample_size", "table_block", "unique_slugs", "without_words"]

LONG = 300  # characters of a parameter
SQUEEZE = 0.7  # of its height is what the key figure keeps at least, however tall it was drawn
OPEN = 4  # figures that stand open on a page, the key figure among them
SAYINGS = ("claims", "findings")  # tables that the page shows in its own form
Drawn = tuple[dict[str, go.Figure], list[str]]  # figures by name, notes on what could not be drawn


def render(run: Run, drawn: Drawn, images: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """The HTML of one run with its figures. images: figure name -> kind -> address of its static image."""
    figures, trouble = drawn
    slugs, images = unique_slugs(figures), images or {}
    places = places_of_claims(figures)
    blocks = {n: figure_block(slugs[n], figure, run, images.get(n)) for n, figure in figures.items()}
    ordered = _key_first(blocks, run)
    _tables_once(ordered)
    shown = {block["table"]["name"] for block in blocks.values() if block["table"]}
    others = [table_block(n, t) for n, t in run.tables.items() if n not in {*shown, *SAYINGS}]
    opened, folds = _folded(ordered)
    key = opened[0] if opened else None
    if key:
        key["height"] = min(key["height"], max(KEY_HEIGHT, round(SQUEEZE * key["height"])))
    return (
        environment()
        .get_template("page.html")
        .render(
            run=run,
            record=run.record,
            example=example_of(run.record),
            findings=[{**found, "at": _place(found, blocks)} for found in run.findings],
            warnings=untestable(run.claims, run.findings),
            key=key,
            opened=opened[1:],
            folds=folds,
            claims=[{**claim, "at": places.get(str(claim.get("name")), "")} for claim in drawn_claims(run.claims)],
            spoken=_spoken(run),
            others=[table for table in others if table["columns"]],
            notes=_notes(run.record),
            trouble=trouble,
            facts=list(_flat(run.record)),
        )
    )


def _key_first(blocks: Mapping[str, dict[str, Any]], run: Run) -> list[dict[str, Any]]:
    """The figures in order, the one that the title's finding points to before all others."""
    first = str(run.findings[0].get("figure")) if run.findings else ""
    return [blocks[name] for name in sorted(blocks, key=lambda name: name != first)]


def _tables_once(blocks: Sequence[dict[str, Any]]) -> None:
    """A figure whose rows stand under an earlier one links there."""
    first: dict[tuple[Any, Any], str] = {}
    for block in blocks:
        if block["table"]:
            block["table_at"] = first.setdefault(block["table_key"], block["id"])


def _folded(blocks: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The figures that stand open, and the others by theme; without themes the first ones are open."""
    themed = any(block["theme"] for block in blocks)
    main = [b for at, b in enumerate(blocks) if at == 0 or not themed or b["theme"] in (None, "main")][:OPEN]
    folds: dict[str, list[dict[str, Any]]] = {}
    for block in blocks:
        if block not in main:
            theme = block["theme"] if block["theme"] not in (None, "main") else "more figures"
            folds.setdefault(str(theme), []).append(block)
    return main, folds


def _place(found: Mapping[str, Any], blocks: Mapping[str, dict[str, Any]]) -> str:
    """Where on the page the figure of a finding is; "" where it was not drawn."""
    block = blocks.get(str(found.get("figure")))
    return f"{block['id']}-box" if block else ""


def _spoken(run: Run) -> list[tuple[str, str]]:
    """The claims in words; of each condition apart where the run has several."""
    conditions = list(dict.fromkeys(claim.get("condition", "") for claim in run.claims))
    if len(conditions) < 2:
        return in_words(run.claims)
    of = {name: [claim for claim in run.claims if claim["condition"] == name] for name in conditions}
    return [(f"{words}, {name}", said) for name in conditions for words, said in in_words(of[name])]


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
    tables = {name: table for name, table in run.tables.items() if name not in SAYINGS}
    found = {name: run.tables[name] for name in run.tables if name == "findings"}  # the heads that figures label
    try:
        return draw(tables if draw is default.figures else tables | found), []
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        note = f"The figures of this analysis could not be drawn ({type(error).__name__}: {error})."
    try:
        return default.figures(tables), [f"{note} Below is what its columns show."]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return {}, [f"{note} Below are its tables."]


def _flat(value: Any, name: str = ""):
    """The record as (name in words, text), in its own order, without what the page says elsewhere."""
    if name in ("title", "question", "methods", "notes", "command", "location", "example", "plan.shards", "reopen"):
        return
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
        return
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = text if len(text) <= LONG else f"{text[:LONG]} … (record.json has it all)"
    text = portable(text)
    yield name.replace("_", " "), "–" if text in ("", "{}", "None") else text
