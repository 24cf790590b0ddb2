"""What `image_lens` found in this model: whether image tokens decode to what they show, before and in its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, minus, rows_with, say

OTHER = "other objects"
OVER_CHANCE, OVER_OTHER = "asked object − chance", "asked object − other objects"


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """The state of the second half that half of the groups chose; and the first state, which no layer has touched."""
    chosen = tables.get("chosen")
    row, margin = (one_row(chosen, measure=measure) for measure in (OVER_CHANCE, OVER_OTHER))
    made = [] if row is None or margin is None else [_inside(row, margin)]
    agreement: dict[str, Any] = {"measure": "agreement", "subset": "all", "state": 0}
    first = [rows_with(tables.get("agreement"), **agreement, control=control) for control in ("", OTHER, "chance")]
    return made if any(rows.empty for rows in first) else [*made, _first(*(rows.iloc[0] for rows in first))]


def _inside(row: pd.Series, margin: pd.Series) -> Finding:
    return say(
        "Image tokens decode to their object inside the model: at state {state} the lens names it {value:.0%} "
        "{span:.0%} more often than chance, and {gap:.0%} {gap_span:.0%} more often than at {control}",
        "It is not shown that image tokens decode to their object inside the model: at state {state} the lens names it "
        "{value:+.0%} {span:+.0%} beside chance, {gap:+.0%} {gap_span:+.0%} beside {control}",
        row,
        about="what image tokens decode to",
        figure="agreement",
        margin=margin,
        control="patches of other objects",
        side="above",
        state=int(row["state"]),
    )


def _first(row: pd.Series, other: pd.Series, chance: pd.Series) -> Finding:
    return say(
        "As they enter the first layer, image tokens decode to their object in {share:.0%} of its patches (chance "
        "{chance:.0%}, {control} {other:.0%})",
        "It is not shown that image tokens decode to their object as they enter the first layer: {share:.0%} of its "
        "patches, chance {chance:.0%}, {control} {other:.0%}",
        minus(row, chance),
        about="what image tokens decode to before the first layer",
        figure="agreement",
        margin=minus(row, other),
        control="patches of other objects",
        side="above",
        share=float(row["value"]),
        chance=float(chance["value"]),
        other=float(other["value"]),
    )
