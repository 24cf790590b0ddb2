"""Overlap: how far the circuits of two tasks are the same heads, against what depth alone would give.

Made of finished runs of `circuits` on one subject; runs no model. Tables: maps, scatter, overlap, pooled, correlation,
circuit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..common.claims import Claim, Statement, judge
from ._circuit_tables import DIRECT
from ._overlap_findings import findings
from ._overlap_tables import CLAIMED, TABLES

__all__ = ["TABLES", "claims", "findings"]

VERSION = 5
NEEDS = ("circuits",)
QUESTION = "Do two tasks use the same heads, more than heads of the same layers would coincide by chance?"
PAPER = "arXiv 2310.08744"

_SHARED = Statement(
    "shared",
    "At 2 % two tasks share more heads on the path to the output than depth explains (Benjamini–Hochberg over pairs, q "
    "below 0.05); it fails where they share fewer than two samples of one task would.",
    PAPER,
)
CLAIMS = (_SHARED,)


@dataclass(frozen=True)
class Options:
    """share: of all heads that counts as a circuit where one number is asked for."""

    share: float = 0.02


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"A circuit is the flat share of heads of largest |mean effect| in one map (here {options.share:.0%}); table "
        "pooled has the paper's, the union of the top 2 % of each stage (of those that both runs have). Band: the 95 % "
        "range of the overlap if heads were exchangeable within layers (the layers' hypergeometric distributions, "
        "convolved, exact); p is the chance of at least the observed one, q Benjamini–Hochberg's over the pairs. p "
        "that ignores depth: one hypergeometric distribution over all heads. Ceiling: what two samples of one task as "
        "large as these would share, with 95 % of its draws (noise from the difference of two halves of the groups, "
        "mean of both tasks)."
    )


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's statement on every pair."""
    overlap = tables["overlap"]
    mine = overlap[(overlap["share"] == CLAIMED) & (overlap["measure"] == DIRECT)]
    return [_claim(row) for row in mine.to_dict("records")]


def _claim(row: Mapping[Any, Any]) -> Claim:
    """Holds by q alone; else the distance to the ceiling decides whether it fails."""
    note = (
        f"{row['pair']}: {row['common']} of {row['heads']} heads in common, {row['expected']:.0%} expected by depth, q "
        f"{row['q_value']:.2g} over pairs (p {row['p_value']:.2g}, ignoring depth {row['p_hypergeometric']:.2g}); "
        f"minus the ceiling of {row['ceiling']:.0%}"
    )
    half = 0.5 / row["heads"]  # heads are whole: below the ceiling's interval is one head below
    bounds = {"lower": row["value"] - row["ceiling_upper"] - half, "upper": row["value"] - row["ceiling_lower"] + half}
    distance = {"value": row["value"] - row["ceiling"], **bounds, "unit": "share in common"}
    distance |= {"n": row["n"], "n_groups": row["n_groups"]}
    is_below = distance["upper"] < 0
    p_value = row["p_value"] if row["q_value"] < 0.05 else None if is_below else row["q_value"]
    return judge(_SHARED, distance, p_value=p_value, untestable=row["untestable"], note=note)
