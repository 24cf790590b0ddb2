"""The head dictionary: everything that the saved runs say of each head of a subject, joined on one page. No model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..charts.style import number, token_label
from .page import environment
from .runs import Run

LISTS = ("words", "ov", "top")  # tables of several rows a head, which are shown as words or not at all
PLACE = ["layer", "head"]


@dataclass(frozen=True, eq=False)
class Dictionary:
    """One subject's heads. table: one row a head, one column a measure; words: (layer, head) -> texts by title."""

    subject: str
    fingerprint: str
    runs: list[Run]
    table: pd.DataFrame
    words: dict[tuple[int, int], dict[str, str]]

    @property
    def name(self) -> str:
        safe = "".join(c if c.isalnum() or c in ".-_" else "-" for c in self.subject)[-80:].lstrip(".-")
        return f"heads-{safe}-{self.fingerprint[:8]}"


def dictionaries(runs: list[Run]) -> list[Dictionary]:
    """A dictionary for every subject of which a run says what its heads promote (logit_attribution)."""
    by_weights: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        subject = run.record["subject"]
        by_weights.setdefault((str(subject.get("name")), str(subject.get("fingerprint"))), []).append(run)
    made = (_dictionary(*key, mine) for key, mine in sorted(by_weights.items()))
    return [found for found in made if found is not None]


def _dictionary(subject: str, fingerprint: str, runs: list[Run]) -> Dictionary | None:
    words = _words(runs)
    columns = {title: values for run in runs for title, values in _columns(run)}
    if not words or not columns:
        return None
    # Two runs of one analysis on one task differ in their options: each keeps its column.
    # What no column has a value for is no head: layers of hybrids that have none.
    table = pd.concat(columns, axis=1).dropna(how="all").sort_index().reset_index()
    used = [run for run in runs if any(True for _ in _columns(run)) or set(LISTS) & set(run.tables)]
    return Dictionary(subject, fingerprint, used, table, words)


def _columns(run: Run) -> Iterator[tuple[str, pd.Series]]:
    """(title, value by layer and head) of every measure of a run that has one value a head, controls left out.

    Each condition has a column of its own.
    """
    for name, table in run.tables.items():
        if name in LISTS or not {*PLACE, "value"} <= set(table) or not pd.api.types.is_numeric_dtype(table["value"]):
            continue
        rows = table[table["layer"].notna() & table["head"].notna()]
        if "control" in rows:
            rows = rows[rows["control"].fillna("") == ""]
        rows = rows.assign(measure=rows.get("measure", name), condition=rows.get("condition", ""))
        for (measure, condition), part in rows.groupby(["measure", "condition"], sort=False):
            if len(part) and not part.duplicated(PLACE).any():
                unit = part["unit"].iloc[0] if "unit" in part else ""
                place = part.astype({"layer": int, "head": int}).set_index(PLACE)["value"]
                where = _where(run, str(condition)) if "n" in part else "weights"
                yield f"{run.record['analysis']}: {str(measure).replace('_', ' ')} ({unit}; {where})", place


def _where(run: Run, condition: str) -> str:
    """What a number of a run was measured on: task with options, condition, template, and which run it is."""
    task = run.record["task"]
    name = " ".join([str(task.get("name", "?")), *(f"{k}={v}" for k, v in (task.get("options") or {}).items())])
    template = "chat" if task.get("template") == "chat" else ""
    return ", ".join(part for part in (name, condition, template, run.name[-8:]) if part)


def _words(runs: list[Run]) -> dict[tuple[int, int], dict[str, str]]:
    found: dict[tuple[int, int], dict[str, str]] = {}
    for run in runs:
        for title, texts in (*_promoted(run), *_circuit(run)):
            for place, text in texts.items():
                found.setdefault(place, {}).setdefault(title, text)
    return found


def _promoted(run: Run) -> Iterator[tuple[str, Mapping[tuple[int, int], str]]]:
    """The words that a head raises most on its strongest prompts."""
    table = run.tables.get("words")
    if table is None or not {*PLACE, "prompt", "rank", "token"} <= set(table):
        return
    for condition, part in table.assign(condition=table.get("condition", "")).groupby("condition", sort=False):
        texts: dict[tuple[int, int], str] = {}
        for place, rows in part.sort_values(["prompt", "rank"]).groupby(PLACE):
            shown = (_listed(prompt["token"]) for _, prompt in rows.groupby("prompt"))
            texts[_place(place)] = " | ".join(shown)
        yield f"promotes on {_where(run, str(condition))}", texts


def _circuit(run: Run) -> Iterator[tuple[str, Mapping[tuple[int, int], str]]]:
    """The OV circuit's first direction: what it reads and what it promotes."""
    table = run.tables.get("ov")
    if table is None or not {*PLACE, "side", "direction", "rank", "token"} <= set(table):
        return
    texts: dict[tuple[int, int], str] = {}
    for place, rows in table[table["direction"] == 1].sort_values("rank").groupby(PLACE):
        sides = (_listed(rows[rows["side"] == side]["token"]) for side in ("reads", "promotes"))
        texts[_place(place)] = " → ".join(sides)
    yield "OV circuit, first direction: reads → promotes", texts


def _place(key: Any) -> tuple[int, int]:
    return int(key[0]), int(key[1])


def _listed(tokens: pd.Series) -> str:
    return " ".join(token_label_plain(token) for token in tokens)


def token_label_plain(token: str) -> str:
    """`token_label` without its escaping: the page escapes by itself."""
    return token_label(token).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def render(found: Dictionary) -> str:
    """The HTML of a dictionary."""
    measures = [str(c) for c in found.table if c not in PLACE]
    titles = list(dict.fromkeys(title for texts in found.words.values() for title in texts))
    rows = []
    for record in found.table.to_dict("records"):
        place = int(record["layer"]), int(record["head"])
        cells = [{"value": record[m], "text": number(record[m])} for m in measures]
        rows.append({"place": place, "cells": cells, "words": [found.words.get(place, {}).get(t, "") for t in titles]})
    return environment().get_template("heads.html").render(found=found, measures=measures, titles=titles, rows=rows)


def to_csv(found: Dictionary) -> bytes:
    """The page's table as CSV."""
    words = [
        found.words.get((int(a), int(b)), {}) for a, b in zip(found.table["layer"], found.table["head"], strict=True)
    ]
    whole = pd.concat([found.table, pd.DataFrame(words, index=found.table.index)], axis=1)
    return whole.to_csv(index=False, lineterminator="\n").encode()
