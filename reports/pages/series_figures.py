"""Figures of three or more models: every measure as a map of models by layers, and as curves over depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..charts import heat_map, lines, sample
from .compare_figures import DEPTH, HELPS, finished
from .compare_rows import Pair, aligned
from .runs import Run

CURVES = 8  # models that lines can tell apart
MOST = 12  # measures


class Measure(NamedTuple):
    """One measure of all models by layer or state. rows: model, place, value, lower, upper, control, unit, n."""

    table: str
    title: str
    place: str
    unit: str
    rows: pd.DataFrame
    edited: bool

    @property
    def measured(self) -> pd.DataFrame:
        return self.rows[self.rows["control"] == ""]


def measures(called: Sequence[str], runs: Sequence[Run]) -> list[Measure]:
    """What all runs have in one unit, of heads the mean over a layer's, what varies most between models first."""
    each = [{_key(pair): pair for pair in aligned(runs[0], run)} for run in runs[1:]]
    shared = [key for key in each[0] if all(key in pairs for pairs in each)]
    found = [_measure(called, [pairs[key] for pairs in each]) for key in shared]
    return sorted(found, key=_alike)[:MOST]  # stable: equal ones stay in the tables' order


def _key(pair: Pair) -> tuple[str, str, str, str]:
    return pair.table, pair.title, " ".join(pair.place), pair.unit


def _measure(called: Sequence[str], pairs: Sequence[Pair]) -> Measure:
    sides = [pairs[0].sides[0], *(pair.sides[1] for pair in pairs)]
    place = pairs[0].place[0]
    of_heads = len(pairs[0].place) > 1
    rows = [_over_heads(side) if of_heads else side for side in sides]
    whole = pd.concat([one.assign(model=name) for name, one in zip(called, rows, strict=True)], ignore_index=True)
    title = f"{pairs[0].title}, mean over heads" if of_heads else pairs[0].title
    return Measure(pairs[0].table, title, place, pairs[0].unit, whole.assign(unit=pairs[0].unit), pairs[0].edited)


def _over_heads(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over a layer's heads; an interval of it the table does not know."""
    means = rows.groupby(["layer", "control"], as_index=False, sort=False)
    return means.agg(value=("value", "mean"), n=("n", "min"), n_groups=("n_groups", "min"))


def _alike(one: Measure) -> float:
    """Minus the spread of the models' means over that of all values; 0 where all is one value."""
    values = one.measured
    whole = float(np.sqrt((values["value"] ** 2).mean()))
    return -float(values.groupby("model")["value"].mean().std(ddof=0)) / whole if whole else 0.0


def figures(called: Sequence[str], runs: Sequence[Run]) -> dict[str, go.Figure]:
    """By name: map and curves of each measure, those that vary most between models first."""
    depths = {name: int(run.record["subject"].get("n_layers") or 0) for name, run in zip(called, runs, strict=True)}
    drawn = {}
    for count, one in enumerate(measures(called, runs), start=1):
        drawn[f"map-{count}"] = _map(one)
        if len(called) <= CURVES:
            drawn[f"curves-{count}"] = _curves(one, depths)
    return drawn


def _map(one: Measure) -> go.Figure:
    rows = one.measured
    figure = heat_map(rows, one.place, "model", signed=bool((rows["value"] < 0).any()), unit=one.unit)
    seen = f"{_begun(one.title)}: a row for each model, a column for each {one.place}."
    read = f"A change along a column is a change between models.{_sign(one)}"
    return finished(figure, f"By model and {one.place}: {one.title}", (seen, read, sample(rows)), one.table)


def _curves(one: Measure, depths: dict[str, int]) -> go.Figure:
    rows, x = one.rows, one.place
    if len({*depths.values()}) > 1:
        rows, x = rows.assign(**{DEPTH: rows[one.place] / rows["model"].map(depths).clip(lower=1)}), DEPTH
    figure = lines(rows, x, by="model", y_title=one.unit, markers=False)
    seen = f"{_begun(one.title)}, a line for each model, over {x}{f', {one.place} / layers' if x == DEPTH else ''}."
    read = "Bands: 95 % interval." if "lower" in rows and rows["lower"].notna().any() else ""
    read += " Dotted: the control." if (rows["control"] != "").any() else ""
    return finished(figure, f"Over depth: {one.title}", (seen, f"{read}{_sign(one)}".strip(), sample(rows)), one.table)


def _begun(text: str) -> str:
    """As a sentence begins."""
    return text[:1].upper() + text[1:]


def _sign(one: Measure) -> str:
    return f" {HELPS}" if one.edited else ""
