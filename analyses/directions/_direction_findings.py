"""What `directions` found in this model: whether the direction steers, and whether the answer needs it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._direction_tables import NEEDED, STEERS


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """One sentence for each claim, beside the nearer of both controls."""
    return [_steers(tables), _needed(tables)]


def _steers(tables: Mapping[str, pd.DataFrame]) -> Finding:
    asked = tested(tables, STEERS)
    numbers = "by {value:+.2f} logits {span:+.2f}; {control}: {beside:+.2f}"
    return say(
        "Added behind layer {best}, the direction makes the model say its answer more: over the other options it "
        f"changes {numbers}",
        f"It is not shown that the direction steers: added behind layer {{best}}, its answer changes {numbers}",
        about="whether the direction steers",
        figure="added",
        side="above",
        best=_layer(asked["row"]),
        **asked,
    )


def _needed(tables: Mapping[str, pd.DataFrame]) -> Finding:
    asked = tested(tables, NEEDED)
    numbers = "{value:.2f} logits {span:.2f} over the other; {control}: {beside:.2f}"
    return say(
        f"The model needs the direction: projected out behind layer {{best}}, the right answer loses {numbers}",
        "It is not shown that the model needs the direction: projected out behind layer {best}, the right answer "
        f"loses {numbers}",
        about="whether the model needs the direction",
        figure="out",
        side="above",
        best=_layer(asked["row"]),
        **asked,
    )


def _layer(row: object) -> str:
    best = row["best"] if isinstance(row, (pd.Series, dict)) else float("nan")
    return "?" if pd.isna(best) else str(int(best))
