"""What runs measured of each head and MLP: their tables as one measure a map, each with its interval and control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from ..charts.style import meta_of
from ..figures.signs import as_help
from .runs import Run
from .words import task_words

PLACE = ["layer", "head"]
WEIGHTS = "from the weights"
MLP = -1  # the head of a place that is an MLP
SELECTED = {"rank", "half", "draw", "stage", "token"}  # columns of tables that hold chosen heads, halves or words
KNOWN = {"subject", "task", "analysis", "unit", "control"}
P_VALUES = {"q_value": "q", "p_family": "p, corrected for all heads", "p_value": "p, corrected for all heads"}
SECTIONS = (
    "Effect on the answer",
    "What it attends to",
    "What it writes",
    "Sinks",
    "Without the image",
    "Also measured",
)
WORDS = {
    "sink_share": "attention on sinks",
    "first_share": "attention on the first token",
    "hidden_rate": "hidden sinks",
    "visual mass": "attention on the image",
    "non-sink ratio": "share of it on image tokens that are no sinks",
    "copying": "copying score of the OV circuit",
    "1 step": "estimate from one gradient",
    "5 steps": "estimate from five gradients",
    "answer": "added to the answer's logit",
    "difference": "added to answer − wrong answer",
    "l2": "change of the head's output",
    "relative": "relative change of the head's output",
    "cosine": "turn of the head's output",
    "pooled": "change of the head's output, pooled",
}


class Measure(NamedTuple):
    """One number a head or MLP. rows: index (layer, head); columns value, lower, upper, p, control, NaN where missing.

    where: task and condition; sample: n and groups; figure: its address on the page of its run.
    """

    title: str
    unit: str
    where: str
    section: str
    mlp: bool
    run: Run
    figure: str
    sample: str
    p_name: str
    control: str
    rows: pd.DataFrame

    @property
    def signed(self) -> bool:
        return bool((self.rows["value"] < 0).any())


def measures(run: Run, addresses: Mapping[str, list[tuple[str, go.Figure]]]) -> Iterator[Measure]:
    """Every measure of a run that has one value a head, or one an MLP. Runs that join tasks have none of their own.

    addresses: table -> (address, figure) of the figures that draw it.
    """
    if "joined" in run.record:
        return
    for name, table in run.tables.items():
        table = as_help(str(run.record["analysis"]), name, table)
        if SELECTED & set(table) or not {"layer", "value"} <= set(table):
            continue
        if not pd.api.types.is_numeric_dtype(table["value"]):
            continue
        for mlp, rows in _places(name, table[table["layer"].notna()]):
            for measure in _split(run, name, rows, mlp) if len(rows) else ():
                yield measure._replace(figure=_figure(addresses.get(name, []), rows, measure))


def _places(name: str, table: pd.DataFrame) -> Iterator[tuple[bool, pd.DataFrame]]:
    """The rows that are of heads, and those that are of MLPs (a part that says so, or a table named so)."""
    headless = table["head"].isna() if "head" in table else pd.Series(True, table.index)
    yield False, table[~headless]
    part = table["part"].astype(str).str.lower() if "part" in table else pd.Series(name.lower(), table.index)
    yield True, table[headless & part.str.startswith("mlp")].assign(head=MLP)


def _split(run: Run, name: str, rows: pd.DataFrame, mlp: bool) -> Iterator[Measure]:
    """A measure for all values of the columns of text, where these tell the rows of a place apart."""
    names = [str(c) for c in rows if c not in KNOWN | {"part"} and pd.api.types.is_string_dtype(rows[c])]
    control = rows["control"].fillna("") if "control" in rows else pd.Series("", rows.index)
    rows = rows.assign(control=control).astype({"layer": int, "head": int}).fillna(dict.fromkeys(names, ""))
    own = rows[control == ""]
    told = [c for c in names if c in ("measure", "condition") or own[c].nunique() > 1]
    for _, part in own.groupby(told, sort=False, dropna=False) if told else [((), own)]:
        if part.empty or part.duplicated(PLACE).any() or part["value"].isna().all():
            continue
        first = part.iloc[0]
        words = [readable(first[c]) for c in told if c != "condition" and first[c]] or [readable(name)]
        unit = str(first.get("unit") or "")
        p_column = next((c for c in P_VALUES if c in part and part[c].notna().any()), "")
        section = _section(str(run.record["analysis"]), unit, " ".join(words))
        where = where_of(run, str(first.get("condition") or "")) if "n" in part else WEIGHTS
        values, named = _numbers(part, p_column), _control(rows, first)
        if named is not None:
            values["control"] = named["value"].reindex(values.index)
        yield Measure(
            " · ".join(words), unit, where, section, mlp, run, "", sample_of(part), P_VALUES.get(p_column, ""),
            "" if named is None else str(named["control"].iloc[0]), values,
        )  # fmt: skip


def _numbers(part: pd.DataFrame, p_column: str) -> pd.DataFrame:
    """The columns of `Measure.rows`, by place."""
    nothing = pd.Series(float("nan"), part.index)
    columns = {name: part.get(name, nothing) for name in ("value", "lower", "upper")}
    frame = pd.DataFrame({**columns, "p": part.get(p_column, nothing), "control": nothing})
    return frame.set_axis(pd.MultiIndex.from_frame(part[PLACE]), axis=0)


def _control(rows: pd.DataFrame, first: pd.Series) -> pd.DataFrame | None:
    """The first control of the same measure and condition that has one value a place."""
    same = rows[rows["control"] != ""]
    for name in ("measure", "condition"):
        same = same[same[name] == first[name]] if name in same else same
    for _, part in same.groupby("control", sort=False):
        if not part.duplicated(PLACE).any():
            return part.set_index(PLACE)
    return None


def readable(name: Any) -> str:
    """A raw name of a measure as a reader may see it."""
    return WORDS.get(str(name), str(name).replace("_", " "))


def _section(analysis: str, unit: str, title: str) -> str:
    """Under which heading of a card a measure stands."""
    effects, reads, writes, sinks, image, other = SECTIONS
    if analysis == "logit_attribution" or "logit attribution" in title or "copying" in title:
        return writes
    if title.startswith("estimate"):
        return other
    if title.startswith("attention on") or unit in ("attention", "share of attention"):
        return reads
    named = {"sinks": sinks, "head_divergence": image}
    return named.get(analysis, effects if unit == "logits" else other)


def where_of(run: Run, condition: str) -> str:
    """What a number was measured on: task with its options, condition, template where it is a chat; whether it is
    known that the model solves the task, where a claim says so.
    """
    template = "chat template" if run.record["task"].get("template") == "chat" else ""
    claims = [c for c in run.claims if c.get("name") == "solved" and c.get("condition", condition) == condition]
    solved = "" if all(claim.get("verdict") == "holds" for claim in claims) else "task not shown to be solved"
    return ", ".join(part for part in (task_words(run.record["task"]), condition, template, solved) if part)


def sample_of(part: pd.DataFrame) -> str:
    """ "n = 27 in 9 groups" of these rows; "" for weights."""
    counts = [part[c].max() for c in ("n", "n_groups") if c in part and part[c].notna().any()]
    return f"n = {counts[0]:,.0f}" + (f" in {counts[1]:,.0f} groups" if len(counts) > 1 else "") if counts else ""


def _figure(drawn: list[tuple[str, go.Figure]], rows: pd.DataFrame, measure: Measure) -> str:
    """The address of the first figure that draws this measure, else of the page of its run."""
    known = set(rows["measure"].map(readable)) if "measure" in rows else set()
    for address, figure in drawn:
        asked = (meta_of(figure).get("where") or {}).get("measure", "")
        asked = readable(asked) if isinstance(asked, str) and asked else ""
        if not asked or asked not in known or measure.title.startswith(asked):
            return address
    return f"{measure.run.name}.html"
