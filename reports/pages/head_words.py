"""What runs say of heads in words: names by rule, tokens that they write, findings and figures that name them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from ..charts.style import token_label
from .head_values import MLP, PLACE
from .runs import Run
from .words import task_words

Place = tuple[int, int]
NAMED = re.compile(r"(\d+)\.(0|[1-9]\d*)(?!\.?\d)")  # "23.3", "23.3 mover"; neither "0.05" nor "1.2.3"


class Words(NamedTuple):
    """Texts by place, under a title; run: whose page has more."""

    title: str
    run: Run
    texts: dict[Place, str]


class Roles(NamedTuple):
    """Who is in the circuit of a run (place -> stages), what its rule calls them (place -> name), and the rule."""

    where: str
    rule: str
    run: Run
    stages: dict[Place, list[str]]
    names: dict[Place, str]


def words(run: Run) -> Iterator[Words]:
    """The tokens that heads and MLPs write: on their strongest prompts, by direction of the OV circuit, or at all."""
    for name, table in run.tables.items():
        if not {"layer", "rank", "token"} <= set(table) or "state" in table:
            continue
        head = table["head"].fillna(MLP) if "head" in table else MLP
        rows = table.assign(head=head, condition=table.get("condition", ""))[table["layer"].notna()]
        told = [c for c in ("condition", "lens") if c in rows]
        for (condition, *_), part in rows.groupby(told, sort=False, dropna=False):
            where = ", ".join(text for text in (task_words(run.record["task"]), str(condition)) if text)
            yield Words(_told(name, part, where), run, _by_place(part))


def _told(name: str, part: pd.DataFrame, where: str) -> str:
    """What the words are."""
    if "direction" in part:
        return "OV circuit, first direction: reads → writes (from the weights)"
    if "prompt" in part:
        return f"Words it raises most on its strongest prompts ({where})"
    if "lens" in part:
        return f"Words that {' and '.join(map(str, part['lens'].unique()))} reads from it ({where})"
    return f"{name.replace('_', ' ').capitalize()} ({where})"


def _by_place(part: pd.DataFrame) -> dict[Place, str]:
    """Tokens in their order, sides and prompts apart."""
    part = part[part["direction"] == 1] if "direction" in part else part
    by, between = next(
        ((c, b) for c, b in (("side", " → "), ("prompt", " | "), ("example", " | ")) if c in part), ("layer", "")
    )
    sides: dict[Any, Any] = {"reads": 0, "promotes": 1}
    ordered = part.assign(order=part[by].map(lambda x: sides.get(x, x))).sort_values(["order", "rank"], kind="stable")
    found: dict[Place, dict[Any, list[str]]] = {}
    columns = (ordered[name].tolist() for name in (*PLACE, "order", "token"))
    for layer, head, order, token in zip(*columns, strict=True):
        found.setdefault(_place((layer, head)), {}).setdefault(order, []).append(_label(str(token)))
    return {place: between.join(" ".join(some) for some in groups.values()) for place, groups in found.items()}


def _label(token: str) -> str:
    """A token as `token_label` has it, not escaped: the page writes text only."""
    return unescape(token_label(token))


def roles(run: Run) -> Iterator[Roles]:
    """The circuits of a run by condition: their heads with the stages that chose them and their names."""
    table = run.tables.get("circuit")
    if "joined" in run.record or table is None or not {*PLACE, "stage", "name"} <= set(table):
        return
    table = table.assign(condition=table.get("condition", ""))
    for condition, part in table.groupby("condition", sort=False, dropna=False):
        places = part.groupby(PLACE, sort=True)
        stages = {_place(key): list(rows["stage"].unique()) for key, rows in places}
        names = {_place(key): next((n for n in rows["name"] if n), "") for key, rows in places}
        where = ", ".join(text for text in (task_words(run.record["task"]), str(condition)) if text)
        yield Roles(where, _rule(run.record["options"]), run, stages, names)


def _rule(options: Mapping[str, Any]) -> str:
    """The rule that names the heads of a circuit, with the thresholds of the run."""
    share, answer, wrong = (options.get(n) for n in ("share", "mover_attention", "inhibition_attention"))
    chosen = f"the {share:.0%}" if isinstance(share, float) else "those"
    limits = [f"at least {x} of" if x is not None else "much of" for x in (answer, wrong)]
    return (
        f"In a circuit: {chosen} of heads with the largest effect of a stage, chosen on one half of the groups. "
        f"Mover: the last position puts {limits[0]} its attention on the answer's token, and what the head writes "
        f"raises the answer (negative mover: lowers it). Inhibition: {limits[1]} it on the wrong option's token, and "
        "no mover. Without a name: neither."
    )


def findings(run: Run) -> list[dict[str, Any]]:
    """The findings that name heads or layers: text, state, figure, heads."""
    table = run.tables.get("findings")
    if table is None or not {"text", "heads"} <= set(table):
        return []
    rows = table[table["heads"].fillna("").astype(str) != ""]
    keep = {"text": "", "state": "", "figure": "", "heads": ""}
    return [{k: str(row.get(k, v) or v) for k, v in keep.items()} for row in rows.to_dict("records")]


def named_in(figure: go.Figure, layers: int, heads: int) -> list[str]:
    """The heads that a figure's own words name ("23.3"): texts of points, notes, and names on an axis."""
    found: dict[str, None] = {}
    for text in _texts(figure.to_plotly_json()):
        match = NAMED.match(text)
        if match and int(match[1]) < layers and int(match[2]) < heads:
            found[match[0]] = None
    return list(found)


def _texts(figure: Mapping[str, Any]) -> Iterator[str]:
    layout = figure["layout"]
    yield from (str(note.get("text", "")) for note in layout.get("annotations") or [])
    for name, axis in layout.items():
        # Ticks of a logarithmic axis are numbers, whatever they look like.
        if name.startswith(("xaxis", "yaxis")) and axis.get("type") != "log":
            yield from map(str, axis.get("ticktext") or ())
    for trace in figure["data"]:
        text = trace.get("text")
        if "text" in str(trace.get("mode", "")) and text is not None and not isinstance(text, str):
            yield from map(str, text)


def _place(key: Any) -> Place:
    return int(key[0]), int(key[1])
