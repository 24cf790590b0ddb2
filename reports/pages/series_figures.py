"""Figures of three or more models: every measure as a map of models by layers, as curves over depth, over steps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..charts import heat_map, lines, sample
from .compare_figures import DEPTH, HELPS, finished
from .compare_rows import Pair, aligned
from .head_values import readable
from .runs import Run

CURVES = 8  # models that lines can tell apart
MOST = 12  # measures that are drawn
OVER_STEPS = 24  # of checkpoints, whose measures have no curves over depth
NUMBERED = re.compile(r"(?:^|\s)\d[\d.]*(?: ·|$)")  # "pair 3", "4.1 · keys": one of many such
PLACES = 4  # layers whose lines over steps are drawn


class Measure(NamedTuple):
    """One measure of all models by layer or state. rows: model, place, value, lower, upper, control, unit, n; of
    checkpoints of one training also step.
    """

    table: str
    title: str
    place: str
    unit: str
    rows: pd.DataFrame
    edited: bool
    of_heads: bool = False

    @property
    def measured(self) -> pd.DataFrame:
        return self.rows[self.rows["control"] == ""]


def measures(called: Sequence[str], runs: Sequence[Run], steps: Sequence[int] | None = None) -> list[Measure]:
    """What all runs have in one unit, of heads the mean over a layer's, what varies most between models first.

    steps: of the runs, where they are checkpoints of one training; then every table has its turn.
    """
    each = [{_key(pair): pair for pair in aligned(runs[0], run)} for run in runs[1:]]
    shared = [key for key in each[0] if all(key in pairs for pairs in each)]
    found = [_measure(called, [pairs[key] for pairs in each]) for key in shared]
    first = sorted(found, key=_alike)  # stable: equal ones stay in the tables' order
    if not steps:
        return first
    at = dict(zip(called, steps, strict=True))
    stepped = [one._replace(rows=one.rows.assign(step=one.rows["model"].map(at))) for one in _in_turn(first)]
    return [one._replace(title=_with_table(one)) for one in stepped]


def _with_table(one: Measure) -> str:
    """The title with its table's name before it, where it does not begin so."""
    table = readable(one.table)
    return one.title if one.title.lower().startswith(table.lower()) else f"{table}, {one.title}"


def _in_turn(found: Sequence[Measure]) -> list[Measure]:
    """The first of every table, then the second of each: a table of hundreds of measures does not hide the others.
    Behind them what is of one layer, or one of many numbered things.
    """
    seen: Counter[tuple[str, bool]] = Counter()
    turns = []
    for one in found:
        behind = one.measured[one.place].nunique() < 2 or bool(NUMBERED.search(one.title))
        turns.append((behind, seen[one.table, behind]))
        seen[one.table, behind] += 1
    return [one for _, one in sorted(zip(turns, found, strict=True), key=lambda pair: pair[0])]


def _key(pair: Pair) -> tuple[str, str, str, str]:
    return pair.table, pair.title, " ".join(pair.place), pair.unit


def _measure(called: Sequence[str], pairs: Sequence[Pair]) -> Measure:
    sides = [pairs[0].sides[0], *(pair.sides[1] for pair in pairs)]
    place = pairs[0].place[0]
    of_heads = len(pairs[0].place) > 1
    rows = [_over_heads(side) if of_heads else side for side in sides]
    whole = pd.concat([one.assign(model=name) for name, one in zip(called, rows, strict=True)], ignore_index=True)
    title = f"{pairs[0].title}, mean over heads" if of_heads else pairs[0].title
    whole = whole.assign(unit=pairs[0].unit)
    return Measure(pairs[0].table, title, place, pairs[0].unit, whole, pairs[0].edited, of_heads)


def _over_heads(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over a layer's heads, and of the ends of their intervals: a mean's own interval is never wider than that."""
    means = rows.groupby(["layer", "control"], as_index=False, sort=False)
    ends = {end: (end, lambda column: column.mean(skipna=False)) for end in ("lower", "upper")}
    return means.agg(value=("value", "mean"), **ends, n=("n", "min"), n_groups=("n_groups", "min"))


def _alike(one: Measure) -> float:
    """Minus the spread of the models' means over that of all values; 0 where all is one value."""
    values = one.measured
    whole = float(np.sqrt((values["value"] ** 2).mean()))
    return -float(values.groupby("model")["value"].mean().std(ddof=0)) / whole if whole else 0.0


def figures(called: Sequence[str], runs: Sequence[Run], found: Sequence[Measure]) -> dict[str, go.Figure]:
    """By name: map and curves of each measure, those that vary most between models first; of checkpoints of one
    training the lines over steps and the map. found: as `measures` gives them.
    """
    if found and "step" in found[0].rows:
        return _of_training(found[:OVER_STEPS])
    depths = {name: int(run.record["subject"].get("n_layers") or 0) for name, run in zip(called, runs, strict=True)}
    drawn = {}
    for count, one in enumerate(found[:MOST], start=1):
        drawn[f"map-{count}"] = _map(one)
        if len(called) <= CURVES:
            drawn[f"curves-{count}"] = _curves(one, depths)
    return drawn


def _of_training(found: Sequence[Measure]) -> dict[str, go.Figure]:
    """Lines over steps and a map of each."""
    drawn = {}
    for count, one in enumerate(found, start=1):
        drawn |= {f"steps-{count}": _over_steps(one), f"map-{count}": _map(one)}
    return drawn


def _over_steps(one: Measure) -> go.Figure:
    """A panel for each of some layers from the first to the last, its steps at their true distance."""
    known = np.unique(one.measured[one.place])
    chosen = known[np.unique(np.linspace(0, len(known) - 1, PLACES).round().astype(int))]
    rows = one.rows[one.rows[one.place].isin(chosen)].sort_values(one.place, kind="stable")
    rows = rows.assign(panel=f"{one.place} " + rows[one.place].astype(str))
    figure = lines(rows, "step", panel="panel", y_title=one.unit)
    some = ", ".join(map(str, chosen))
    seen = (
        f"{_begun(one.title)}, over the steps at which a checkpoint was kept, a panel a {one.place} ({some}); the map "
    )
    seen += "has all."
    read = f"{_intervals(one)}{_sign(one)}"
    return finished(figure, f"Over training: {one.title}", (seen, read, sample(rows[rows["control"] == ""])), one.table)


def _intervals(one: Measure) -> str:
    """What bands and dotted lines are, for the caption; that there are none."""
    bands = one.rows["lower"].notna().any()
    read = "Bands: 95 % interval" if bands else "No bands: the table has no interval, nothing is said of chance."
    if bands:
        read += ", the mean of the heads' own, which is too wide rather than too narrow." if one.of_heads else "."
    return read + (" Dotted: the control." if (one.rows["control"] != "").any() else "")


def _map(one: Measure) -> go.Figure:
    rows = one.measured
    by = "step" if "step" in rows else "model"
    rows = rows.assign(step=rows["step"].astype(str)) if by == "step" else rows  # names of rows, not their heights
    figure = heat_map(rows, one.place, by, signed=bool((rows["value"] < 0).any()), unit=one.unit)
    seen = f"{_begun(one.title)}: a row for each {by}, a column for each {one.place}."
    read = f"A change along a column is a change between {by}s.{_sign(one)}"
    return finished(figure, f"By {by} and {one.place}: {one.title}", (seen, read, sample(rows)), one.table)


def _curves(one: Measure, depths: dict[str, int]) -> go.Figure:
    rows, x = one.rows, one.place
    if len({*depths.values()}) > 1:
        rows, x = rows.assign(**{DEPTH: rows[one.place] / rows["model"].map(depths).clip(lower=1)}), DEPTH
    figure = lines(rows, x, by="model", y_title=one.unit, markers=False)
    each = "step" if "step" in rows else "model"
    seen = f"{_begun(one.title)}, a line for each {each}, over {x}{f', {one.place} / layers' if x == DEPTH else ''}."
    return finished(
        figure, f"Over depth: {one.title}", (seen, f"{_intervals(one)}{_sign(one)}", sample(rows)), one.table
    )


def _begun(text: str) -> str:
    """As a sentence begins."""
    return text[:1].upper() + text[1:]


def _sign(one: Measure) -> str:
    return f" {HELPS}" if one.edited else ""
