"""Two runs' tables side by side: what both have by head, by layer or by state, and the difference of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..figures.signs import ATTENTION, as_help, edited
from .head_values import KNOWN, readable
from .runs import Run

LEFT_OUT = {"claims", "findings", "tested"}  # claims and findings have a place of their own
CHOSEN = {"rank", "token", "example", "png", "half", "stage"}  # columns of tables of chosen things, not of all
NUMBERS = {"n", "n_groups", "layer", "head", "state"}
OUTLIERS = 5


class Pair(NamedTuple):
    """One measure in both runs. place: ["layer", "head"], ["layer"] or ["state"]; sides: the rows of each run, with
    place, value, lower, upper, n, n_groups, unit and control ("" where measured). edited: values say what an edit took.
    """

    table: str
    title: str
    place: list[str]
    unit: str
    sides: tuple[pd.DataFrame, pd.DataFrame]
    edited: bool = False

    @property
    def measured(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of each run without those of controls."""
        first, second = (side[side["control"] == ""] for side in self.sides)
        return first, second

    @property
    def alike(self) -> bool:
        """Whether both runs have the same places, so that one can be subtracted from the other."""
        first, second = (set(side[self.place].itertuples(index=False, name=None)) for side in self.measured)
        return first == second

    @property
    def signed(self) -> bool:
        return any(bool((side["value"] < 0).any()) for side in self.measured)


def aligned(a: Run, b: Run) -> list[Pair]:
    """Every measure by head, layer or state that both runs have in one unit, in the order of the first run's tables."""
    analysis = str(a.record["analysis"])
    shared = [name for name in a.tables if name in b.tables and name not in LEFT_OUT]
    sides = {name: [as_help(analysis, name, run.tables[name]) for run in (a, b)] for name in shared}
    pairs = [pair for name, (first, second) in sides.items() for pair in _of_table(name, first, second)]
    of = {name: edited(analysis, name) for name in shared}
    return [pair._replace(edited=of[pair.table] and not pair.title.startswith(ATTENTION)) for pair in pairs]


def _of_table(name: str, first: pd.DataFrame, second: pd.DataFrame) -> Iterator[Pair]:
    tables = (first, second)
    if any(CHOSEN & set(table) or "value" not in table for table in tables):
        return
    if not all(pd.api.types.is_numeric_dtype(table["value"]) for table in tables):
        return
    for place in (["layer", "head"], ["layer"], ["state"]):
        parts = [_at(table, place) for table in tables]
        if all(len(part) for part in parts):
            yield from _by_key(name, place, parts[0], parts[1])


def _at(table: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    """The rows that lie at such places and no other, their control a text."""
    if not set(place) <= set(table):
        return table[:0]
    known = table[place].notna().all(axis=1)
    for other in {"layer", "head", "state"} - set(place):
        known &= table[other].isna() if other in table else True
    control = table["control"].fillna("").astype(str) if "control" in table else ""
    rows = table.assign(control=control)[known]
    return rows.astype(dict.fromkeys(place, int))


def _by_key(name: str, place: list[str], first: pd.DataFrame, second: pd.DataFrame) -> Iterator[Pair]:
    """A pair for all values of the columns that tell rows of one place apart."""
    keys = _keys(place, first, second)
    if keys is None:
        return
    sides = [_grouped(rows, keys) for rows in (first, second)]
    for key in sides[0]:
        if key not in sides[1]:
            continue
        units = [str(side[key].get("unit", pd.Series([""])).iloc[0]) for side in sides]
        one, other = (_columns(side[key], place) for side in sides)
        pair = Pair(name, _title(name, keys, key), place, units[0], (one, other))
        if units[0] == units[1] and all(side["value"].notna().any() for side in pair.measured):
            yield pair


def _keys(place: list[str], first: pd.DataFrame, second: pd.DataFrame) -> list[str] | None:
    """The fewest columns, texts before whole numbers, that tell rows apart; None where none do."""
    both = pd.concat([first, second], ignore_index=True)
    own = [str(c) for c in both if c not in KNOWN | NUMBERS and both[c].nunique() > 1]
    texts = [c for c in own if pd.api.types.is_string_dtype(both[c])]
    numbers = [c for c in own if pd.api.types.is_integer_dtype(both[c])]
    texts += [c for c in ("measure",) if c in both and c not in texts]
    for count in range(len(numbers) + 1):
        keys = texts + numbers[:count]
        if not any(rows.duplicated([*place, "control", *keys]).any() for rows in (first, second)):
            return keys
    return None


def _grouped(rows: pd.DataFrame, keys: list[str]) -> dict[Any, pd.DataFrame]:
    """Rows by the values of their keys; those that are missing are ""."""
    if not keys:
        return {(): rows}
    cells = rows[keys].astype(object).where(rows[keys].notna(), "")
    return {key: rows.loc[part.index] for key, part in cells.groupby(keys, sort=False)}


def _columns(rows: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    known = {c: rows.get(c, np.nan) for c in ("value", "lower", "upper", "n", "n_groups")}
    unit = rows.get("unit", "")
    return rows[[*place, "control"]].assign(**known, unit=unit).reset_index(drop=True)


def _title(name: str, keys: list[str], key: tuple[Any, ...]) -> str:
    """ "path to the output · BOS": the cells of the keys; the table's name where they say nothing."""
    cells = [(c, v) for c, v in zip(keys, key, strict=True) if v != ""]
    told = [readable(v) if isinstance(v, str) else f"{c.replace('_', ' ')} {v}" for c, v in cells if c != "condition"]
    condition = [str(v) for c, v in cells if c == "condition"]
    return " · ".join([*(told or [readable(name)]), *condition])


def difference(pair: Pair) -> pd.DataFrame:
    """Second − first, a row a place: first, second, value, lower, upper, clear, label, largest differences first.

    lower, upper: of the difference, as if the runs were independent (half-widths added in squares; where prompts are
    the same this is too wide). clear: this interval excludes 0.
    """
    first, second = pair.measured
    both = first.merge(second, on=pair.place, suffixes=("_first", "_second"))
    value = both["value_second"] - both["value_first"]
    down = np.hypot(both["value_second"] - both["lower_second"], both["upper_first"] - both["value_first"])
    up = np.hypot(both["upper_second"] - both["value_second"], both["value_first"] - both["lower_first"])
    named = both[pair.place].astype(str).agg(".".join, axis=1)
    frame = both[pair.place].assign(
        first=both["value_first"],
        second=both["value_second"],
        value=value,
        lower=value - down,
        upper=value + up,
        label=named if len(pair.place) == 2 else pair.place[0] + " " + named,
        unit=pair.unit,
    )
    frame["clear"] = (frame["lower"] > 0) | (frame["upper"] < 0)
    return frame.iloc[np.argsort(-value.abs().fillna(-1).to_numpy(), kind="stable")].reset_index(drop=True)


def by_unlikeness(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, those first that differ most: root mean square of the difference over that of all values which the
    table has in this unit. Where the places differ, the difference is that of the two root mean squares.
    """
    scales: dict[tuple[str, str], list[float]] = {}
    for pair in pairs:
        values = pd.concat([side["value"] for side in pair.measured])
        scales.setdefault((pair.table, pair.unit), []).extend(values.dropna().tolist())

    def apart(pair: Pair) -> float:
        whole = _size(scales[pair.table, pair.unit])
        first, second = (_size(side["value"].dropna()) for side in pair.measured)
        own = _size(difference(pair)["value"].dropna()) if pair.alike else abs(first - second)
        return -own / whole if whole else 0.0

    return sorted(pairs, key=apart)  # stable: equal ones stay in the tables' order


def _size(values: ArrayLike) -> float:
    """Root mean square; 0 of nothing."""
    values = np.asarray(values, float)
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0
