"""Shared heads: whether two tasks choose the same heads to be steered or shifted, against what depth alone would give

Made of finished runs of `highlighting`, or of `lofit`, on one subject; runs no model. Tables: shared, heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..common.circuit_overlap import above_depth
from ..common.claims import Claim, Statement, judge
from ._shared_head_findings import findings
from ._shared_head_tables import DEPTH, SHARED, TABLES

__all__ = ["TABLES", "findings"]

VERSION = 2
NEEDS = ("highlighting", "lofit")
QUESTION = "Do two tasks choose the same heads, more than heads of the same layers would coincide by chance?"
PAPER = "arXiv 2311.02262 (PASTA), 2406.01563 (LoFiT)"

CLAIMS = (
    Statement(
        SHARED,
        "Two tasks choose common heads: more than sets with as many heads in every layer have (exact, "
        "Benjamini–Hochberg over pairs, q at most .05).",
        "arXiv 2311.02262 (PASTA): the intersection of several tasks' heads steers all of them; the null is this "
        "project's. arXiv 2406.01563 (LoFiT) finds heads that are the task's own",
    ),
)


@dataclass(frozen=True)
class Options:
    """None: the sets are those that the runs chose."""


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "The heads are those that each run chose, from one half of its task's groups. Band: 95 % of what two sets have "
        f"in common that have as many heads in every layer as these ({DEPTH}; the layers' hypergeometric "
        "distributions, convolved, exact); p is the chance of at least as many, q Benjamini–Hochberg's over the pairs. "
        "Ceiling, of LoFiT alone: what two seeds of training on one task have in common, mean of both tasks."
    )


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The statement on every pair."""
    return [_claim(row) for row in tables["shared"].to_dict("records")]


def _claim(row: Mapping[Any, Any]) -> Claim:
    note = (
        f"{row['pair']}: {row['common']} of {row['heads']} heads in common, {row['expected'] * row['heads']:.1f} "
        f"expected of {DEPTH}, q {row['q_value']:.2g} (p {row['p_value']:.2g}); minus these"
    )
    return judge(CLAIMS[0], above_depth(row), p_value=float(row["q_value"]), untestable=row["untestable"], note=note)
