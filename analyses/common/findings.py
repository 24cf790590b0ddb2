"""A finding: one sentence about this model, made from numbers of its tables, that says no more than its control allows.

An analysis' `findings(tables)` hands `say` a row of its tables and two sentences: what may be said where the interval
decides, and what is left to say where it does not. A run keeps them best first as its table `findings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as distributions

from .claims import LEVEL, Row, bounds, one_row

Side = Literal["above", "below"]
FOUND, OPEN, UNTESTABLE = "found", "open", "not testable"
SURE = 5.0  # half-widths: what lies farther behind its threshold is ordered by its analysis, not by its interval


class Finding(NamedTuple):
    """text: the sentence. figure: a name of `figures(tables)`. state: "found"; "open", where the interval or the
    control does not allow it, which the sentence says; "not testable", for `reason`.

    value … n_groups, threshold: the row that it is made of. margin: measured − control, NaN without one. rank: the
    margin (without a control, the distance from the threshold) in half-widths of its interval, larger is stronger, and
    beyond SURE all are as sure.
    heads: those named in the text, "23.3 20.0", or layers, "L12".
    """

    text: str
    figure: str
    state: str
    value: float = np.nan
    lower: float = np.nan
    upper: float = np.nan
    unit: str = ""
    n: float = np.nan
    n_groups: float = np.nan
    threshold: float = 0.0
    control: str = ""
    margin: float = np.nan
    margin_lower: float = np.nan
    margin_upper: float = np.nan
    rank: float = np.nan
    heads: str = ""
    reason: str = ""


def say(
    found: str,
    otherwise: str,
    row: Row | None,
    *,
    about: str,
    figure: str,
    margin: Row | None = None,
    control: str = "",
    threshold: float = 0.0,
    side: Literal["above", "below", "either"] = "either",
    among: int = 1,
    p_value: float | None = None,
    heads: str = "",
    untestable: str = "",
    **words: Any,
) -> Finding:
    """The sentence that row (value, lower, upper, unit, n, n_groups) and margin (measured − control) allow.

    found: said where the row's interval lies wholly on `side` of the threshold and the margin's wholly on the same side
    of 0, and `p_value`, where given (corrected by whoever gives it), is at most .05. otherwise: said else, with the
    numbers that leave it open. among: the row is the most striking of so many; intervals are widened to hold for all
    of them (Bonferroni). untestable: why nothing can be said of `about`; so it is without a row, without a number and
    without a control that is asked for.

    Fields of the sentences: value, span (its interval), n, groups, threshold; beside (the control's value), gap,
    gap_span; control; and `words`. Formats are Python's, "{value:.0%} {span:.0%}".
    """
    why = untestable or _missing(row, margin, control)
    if why or row is None:
        text = f"Nothing can be said of {about}: {why}."
        return Finding(text, figure, UNTESTABLE, threshold=threshold, control=control, reason=why)
    own, ahead = widened(row, among), None if margin is None else widened(margin, among)
    up = own[0] > threshold if side == "either" else side == "above"
    distances = [_clearance(own, threshold, up), *([] if ahead is None else [_clearance(ahead, 0.0, up)])]
    clear = min(distances) > 1 and (p_value is None or p_value <= 1 - LEVEL)
    fields = _fields(row, margin) | {"control": control, "threshold": _Number(threshold)} | _numbers(words)
    return Finding(
        text=_tidy((found if clear else otherwise).format(**fields)),
        figure=figure,
        state=FOUND if clear else OPEN,
        value=float(row["value"]),
        lower=float(row["lower"]),
        upper=float(row["upper"]),
        n=float(row["n"]),
        n_groups=float(row["n_groups"]),
        unit=str(row.get("unit", "")),
        threshold=float(threshold),
        control=control,
        **_named(margin),
        rank=min(float(distances[-1]), SURE) if np.isfinite(distances[-1]) else 0.0,
        heads=heads,
    )


def widened(row: Row, among: int) -> tuple[float, float, float]:
    """value, lower, upper; the bounds so far out that all of `among` such intervals hold together (Bonferroni)."""
    value, lower, upper = bounds(row)
    degrees = max(float(row["n_groups"]) - 1, 1)
    one, all_of = (float(distributions.t.isf((1 - LEVEL) / 2 / count, degrees)) for count in (1, among))
    return value, value - (value - lower) * all_of / one, value + (upper - value) * all_of / one


def clears(row: Row, threshold: float = 0.0, among: int = 1) -> bool:
    """Whether the interval of one of `among` rows lies wholly above the threshold."""
    return _clearance(widened(row, among), threshold, True) > 1


def minus(row: Row, other: Row) -> dict[str, Any]:
    """The difference of two numbers of which no paired difference is in the tables: half-widths are added, so that the
    interval is never too narrow, whatever their correlation.
    """
    a, b = (tuple(float(one[name]) for name in ("value", "lower", "upper")) for one in (row, other))
    counts = {name: min(row[name], other[name]) for name in ("n", "n_groups")}
    return {"value": a[0] - b[0], "lower": a[1] - b[2], "upper": a[2] - b[1], "unit": row.get("unit", "")} | counts


def turned(row: Row) -> dict[str, Any]:
    """The same number with the other sign: of what patching takes away, what the part gives."""
    kept = {name: row[name] for name in ("n", "n_groups")} | {"unit": row.get("unit", "")}
    return kept | {"value": -row["value"], "lower": -row["upper"], "upper": -row["lower"]}


def mean_of(rows: pd.DataFrame) -> dict[str, Any] | None:
    """The mean of several cells with the mean of their half-widths, which no interval of a mean exceeds; None without
    any."""
    there = rows[rows["value"].notna()]
    if there.empty:
        return None
    found = {name: float(there[name].mean(skipna=False)) for name in ("value", "lower", "upper")}
    return found | {"n": there["n"].min(), "n_groups": there["n_groups"].min(), "unit": there["unit"].iloc[0]}


def place(head: Mapping[Any, Any] | pd.Series) -> str:
    """ "23.3": a row's layer and head."""
    return f"{int(head['layer'])}.{int(head['head'])}"


def rows_with(table: pd.DataFrame | None, **where: Any) -> pd.DataFrame:
    """The rows with these values in these columns and a number, in order; none without a table."""
    if table is None or not {"value", *where} <= set(table.columns):
        return pd.DataFrame(columns=["value", *where])
    kept = np.logical_and.reduce([table["value"].notna(), *(table[column] == value for column, value in where.items())])
    return table[kept].reset_index(drop=True)


def tested(tables: Mapping[str, pd.DataFrame], claim: str, side: Side = "above") -> dict[str, Any]:  # noqa: PT028
    """What `say` is asked about a number of the table `tested`: row, the nearest margin, its control, untestable.

    side: where the number has to lie, of its threshold and of its controls.
    """
    table = tables.get("tested")
    row = one_row(table, claim=claim, than="")
    if row is None or table is None:
        return {"row": None}
    margins = table[(table["claim"] == claim) & (table["than"] != "")]
    asked: dict[str, Any] = {"row": row, "untestable": row["untestable"]}
    if margins.empty:
        return asked
    lacking = margins["value"].isna()
    ahead = (margins["lower"] if side == "above" else -margins["upper"]).fillna(-np.inf)
    nearest = margins[lacking].iloc[0] if lacking.any() else margins.iloc[int(ahead.argmin())]
    return asked | {"margin": nearest, "control": nearest["than"]}


# ---------------------------------------------------------------- numbers and words


class _Number(float):
    """A number that writes itself as our pages do: "−64 %", three digits where no format is given."""

    def __format__(self, spec: str) -> str:
        if np.isnan(self):
            return "unknown"
        said = float.__format__(self, spec or (",.0f" if abs(self) >= 1000 else ".3g"))
        if not any(digit in said for digit in "123456789"):  # "-0.00"
            said = said.lstrip("-")
        return said.replace("%", " %").replace("-", "−")


class _Span(tuple):
    """Two bounds, "[0.1, 0.2]"."""

    def __format__(self, spec: str) -> str:
        if any(np.isnan(bound) for bound in self):
            return "[no interval]"
        return f"[{', '.join(format(_Number(bound), spec) for bound in self)}]"


def _fields(row: Row, margin: Row | None) -> dict[str, Any]:
    found: dict[str, Any] = {"value": _Number(row["value"]), "span": _Span((row["lower"], row["upper"]))}
    found |= {"n": _Number(row["n"]), "groups": _Number(row["n_groups"])}
    if margin is not None:
        found |= {"beside": _Number(row["value"] - margin["value"]), "gap": _Number(margin["value"])}
        found["gap_span"] = _Span((margin["lower"], margin["upper"]))
    return found


def _numbers(words: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _Number(word) if isinstance(word, float | np.floating) else word for name, word in words.items()}


def _named(margin: Row | None) -> dict[str, Any]:
    if margin is None:
        return {}
    names = {"margin": "value", "margin_lower": "lower", "margin_upper": "upper"}
    return {name: float(margin[column]) for name, column in names.items()}


def _missing(row: Row | None, margin: Row | None, control: str) -> str:
    if row is None or np.isnan(row["value"]):
        return "it was not measured"
    return f"there are no {control} to compare with" if margin is not None and np.isnan(margin["value"]) else ""


def _clearance(bounds_of: tuple[float, float, float], threshold: float, up: bool) -> float:
    """How far a number lies behind the threshold, in half-widths of its interval: above 1 the interval leaves it out.

    −inf without an interval.
    """
    value, lower, upper = bounds_of
    width = value - lower if (value > threshold) else upper - value
    if not width > 0:
        return -np.inf
    return (value - threshold if up else threshold - value) / width


def _tidy(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "?", "!")) else f"{text}."
