"""What `changed_heads` found: whether the same heads carry the task, how much was changed, and in which head most."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, place, rows_with, say, tested
from ._changed_tables import FEW, KEPT, LIKE, MORE
from ._circuit_tables import EXACT

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested, and the head that changed most."""
    found = [_kept(tables), _more(tables), _few(tables)]
    return found if tested(tables, MORE).get("untestable") else [*found, *_most(tables)]


def _kept(tables: Tables) -> Finding:
    return say(
        "The same heads carry the task in both models: their effects correlate by {value:.2f} {span:.2f} over heads; "
        "{control}: {beside:.2f}",
        "It is not shown that the same heads carry the task in both models: their effects correlate by {value:.2f} "
        "{span:.2f} over heads; {control}: {beside:.2f}",
        **tested(tables, KEPT),
        about="whether the same heads carry the task",
        figure="scatter",
        threshold=LIKE,
        side="above",
    )


def _more(tables: Tables) -> Finding:
    return say(
        "Heads do something else since: the change is {value:.0%} {span:.0%} of the other model's effects (root mean "
        "square over heads); {control}: {beside:.0%}",
        "It is not shown that heads do something else since: the change is {value:.0%} {span:.0%} of the other model's "
        "effects (root mean square over heads); {control}: {beside:.0%}",
        **tested(tables, MORE),
        about="how much was changed",
        figure="layers",
        threshold=0.1,
        side="above",
    )


def _few(tables: Tables) -> Finding:
    return say(
        "The change lies in few heads: the 5 % that changed most hold {value:.0%} {span:.0%} of it, {control} "
        "{beside:.0%}",
        "It is not shown that the change lies in few heads: the 5 % that changed most hold {value:.0%} {span:.0%} of "
        "it, {control} {beside:.0%}",
        **tested(tables, FEW),
        about="how many heads were changed",
        figure="heads",
        threshold=0.5,
        side="above",
    )


def _most(tables: Tables) -> list[Finding]:
    """The largest change among the heads whose p, corrected for all of them, is small; among all where none is."""
    rows = rows_with(tables.get("heads"), measure=EXACT)
    if rows.empty:
        return []
    sure = rows[rows["p_value"] <= 0.05]
    some = sure if len(sure) else rows
    row = some.iloc[int(some["value"].abs().argmax())]
    changed = "{count:.0f} of {all:.0f} heads changed"
    largest = "{head}, {value:+.2f} logits {span:+.2f}"
    return [
        say(
            f"{changed}, {{head}} the most of them: it gives the answer's lead {{here:+.2f}} logits here and "
            "{there:+.2f} in the other model (change {value:+.2f} {span:+.2f}; {control}: {beside:+.2f})",
            f"{changed}, but the largest change, of {largest}, is not told from {{control}} ({{beside:+.2f}})"
            if len(sure)
            else f"No head is shown to have changed: the largest change is that of {largest} ({{control}}: "
            "{beside:+.2f})",
            row,
            about="which head changed most",
            figure="heads",
            p_value=float(row["p_value"]),  # corrected for all heads
            heads=place(row),
            head=place(row),
            count=float(len(sure)),
            all=float(len(rows)),
            here=float(row["here"]),
            there=float(row["there"]),
            margin=_beside(rows, row),
            control="the mean of the other heads of its layer",
        )
    ]


def _beside(rows: pd.DataFrame, row: pd.Series) -> dict[str, float]:
    """The head's change minus its layer's other heads' mean; half-widths are added."""
    others = rows[(rows["layer"] == row["layer"]) & (rows["head"] != row["head"])]
    mean = {name: float(others[name].mean()) for name in ("value", "lower", "upper")}
    bounds = {"lower": row["lower"] - mean["upper"], "upper": row["upper"] - mean["lower"]}
    return {"value": row["value"] - mean["value"], **bounds, "n": row["n"], "n_groups": row["n_groups"]}
