"""What a point says under the mouse: one template a trace, the interval and n beside its number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .style import number, plain

FORMAT = ",.4~r"  # four digits, never 1.9e-06


def template(said: Iterable[str], value: str, rows: pd.DataFrame, at: str) -> dict[str, Any]:
    """`hovertemplate`, and the intervals under the name `at` ("text" or "customdata") where there are any.

    said: lines before the value; value: plotly's name of it ("y"). n is in the template where the rows share it.
    """
    spans, ending = _spans(rows), _samples(rows)
    lines = [*(line for line in said if line), f"<b>%{{{value}:{FORMAT}}}</b> {_unit(rows)}".rstrip()]
    if isinstance(ending, list):
        spans = [f"{span}{'; ' if span else ''}{n}" for span, n in zip(spans or [""] * len(rows), ending, strict=True)]
    lines += [f"%{{{at}}}"] if spans else []
    lines += [ending] if isinstance(ending, str) and ending else []
    return {"hovertemplate": "<br>".join(lines) + "<extra></extra>", **({at: spans} if spans else {})}


def fixed(text: Any) -> str:
    """A text that stands in a template as it is: plotly shall see neither markup nor a name to fill in."""
    return plain(text).replace("%{", "%\u200b{")


def _unit(rows: pd.DataFrame) -> str:
    units = rows["unit"].dropna().unique() if "unit" in rows else []
    return fixed(units[0]) if len(units) == 1 else ""


def _spans(rows: pd.DataFrame) -> list[str]:
    """ "95 %: 0.1 to 0.2" for every row; empty where no row has an interval."""
    if not {"lower", "upper"} <= set(rows) or rows["lower"].isna().all():
        return []
    ends = zip(rows["lower"], rows["upper"], strict=True)
    return ["no interval" if pd.isna(low) else f"95 %: {number(low)} to {number(high)}" for low, high in ends]


def _samples(rows: pd.DataFrame) -> str | list[str]:
    """ "n = 5 in 3 groups" once, or for every row where they differ."""
    if "n" not in rows:
        return ""
    groups = rows["n_groups"] if "n_groups" in rows else pd.Series(float("nan"), rows.index)
    said = [_sample(n, g) for n, g in zip(rows["n"], groups, strict=True)]
    return said[0] if len(set(said)) == 1 else said


def _sample(n: Any, groups: Any) -> str:
    if pd.isna(n):
        return ""
    return f"n = {number(n)}" + ("" if pd.isna(groups) else f" in {number(groups)} groups")
