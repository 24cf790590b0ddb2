"""What changed from the first checkpoint of a training to the last: its interval, and what the controls did there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd

from .compare_rows import NUMBERS, Pair, difference
from .head_values import KNOWN
from .runs import Run
from .series_figures import Measure
from .tables import short

SAID = 4  # measures


class Change(NamedTuple):
    """Last − first of one measure. rows: as `difference` has them; controls: of each control the same by place."""

    of: Measure
    rows: pd.DataFrame
    controls: dict[str, pd.DataFrame]


def change(of: Measure, first: str, last: str) -> Change:
    """From the model called `first` to the one called `last`."""
    each = {str(control): rows for control, rows in of.rows.groupby("control", sort=False)}
    parts = {control: difference(_pair(of, rows, first, last)) for control, rows in each.items()}
    return Change(of, parts.pop(""), parts)


def _pair(of: Measure, rows: pd.DataFrame, first: str, last: str) -> Pair:
    """Both sides of one control or of what is measured. Missing intervals stay missing."""
    rows = rows.assign(control="").reindex(columns=list(dict.fromkeys([*rows, "lower", "upper"])))
    sides = (rows[rows["model"] == first], rows[rows["model"] == last])
    return Pair(of.table, of.title, [of.place], of.unit, sides)


def sentences(found: Sequence[Measure], called: Sequence[str]) -> list[str]:
    """One for each of the measures that come first: how many places changed, where most, and the control there."""
    made = (change(one, called[0], called[-1]) for one in found)
    return [_sentence(one) for one in islice((one for one in made if one.rows["value"].notna().any()), SAID)]


def _sentence(made: Change) -> str:
    rows, place = made.rows.dropna(subset=["value"]), made.of.place
    name = f"{made.of.title[:1].upper()}{made.of.title[1:]}"
    if not rows["value"].any():
        return f"{name}: the same at both steps in every {place}."
    known = int(rows["lower"].notna().sum())
    clear = rows[rows["clear"]]
    many = (
        f"{len(clear) or 'none'} of {known} {place}s {'changes' if len(clear) == 1 else 'change'} beyond the interval"
    )
    counted = f"{many} (by chance about {short(round(known / 20, 1))})" if known else NO_INTERVAL
    return f"{name}: {counted}. {_largest(made, (clear if len(clear) else rows).iloc[0])}."


NO_INTERVAL = "its table has no interval, so only the change of a control can tell it from chance"


def _largest(made: Change, top: pd.Series) -> str:
    """Where the change is largest, among the places that change beyond their interval where there are any."""
    ends = f" [{_signed(top['lower'])}, {_signed(top['upper'])}]" if pd.notna(top["lower"]) else ""
    told = f"Largest{' of these' if top['clear'] else ''}: {top['label']}, from {_plain(top['first'])} to "
    told += f"{_plain(top['second'])}, a change of {_signed(top['value'])}{ends} {made.of.unit}".rstrip()
    place = made.of.place
    found = {name: rows.loc[rows[place] == top[place], "value"].dropna() for name, rows in made.controls.items()}
    controls = [f"{name} {_signed(here.iloc[0])}" for name, here in found.items() if len(here)]
    return told + (f"; of the control there: {', '.join(controls)}" if controls else "")


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + _plain(value)


def _plain(value: float) -> str:
    """Three digits, with the minus that the page has elsewhere."""
    return f"\u2212{short(-value)}" if value < 0 else short(value)


def halves(first: Run, last: Run) -> Iterator[str]:
    """A sentence for each table that has values of two halves of the data: change of training beside that of halves."""
    for name in first.tables:
        if name in last.tables and (sizes := _halves(first.tables[name], last.tables[name])):
            yield (
                f"{name.replace('_', ' ').capitalize()}: from the first step to the last the values change by "
                f"{short(sizes[0])} (root mean square); at the last step two halves of the data differ by "
                f"{short(sizes[1])}, which is the size of chance in half of the data."
            )


def _halves(first: pd.DataFrame, last: pd.DataFrame) -> tuple[float, float] | None:
    """Root mean square of last − first in each half, and of half 2 − half 1 at the last; None without halves."""
    both = [_by_half(table) for table in (first, last)]
    if any(table is None or not {1, 2} <= set(table) for table in both):
        return None
    before, after = (table[[1, 2]] for table in both if table is not None)
    moved = (after - before).dropna()
    apart = after[2] - after[1]
    return (_size(moved), _size(apart.dropna())) if len(moved) else None


def _by_half(table: pd.DataFrame) -> pd.DataFrame | None:
    """A row a place, a column a half, of what is measured in one unit; None where the table has no such rows."""
    if not {"half", "value", "layer"} <= set(table) or table.get("unit", pd.Series([""])).nunique() > 1:
        return None
    rows = table[table["control"].fillna("") == ""] if "control" in table else table
    told = [str(c) for c in rows if c not in KNOWN | NUMBERS and c not in ("half", "value")]
    keys = [c for c in [*("layer", "head"), *told] if c in rows and not pd.api.types.is_float_dtype(rows[c])]
    keys = [c for c in dict.fromkeys(keys) if c not in ("subject", "task", "analysis")]
    rows = rows.assign(half=rows["half"].astype(int))
    return None if rows.duplicated([*keys, "half"]).any() else rows.set_index([*keys, "half"])["value"].unstack("half")


def _size(values: pd.DataFrame | pd.Series) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values.to_numpy(dtype=float)))))
