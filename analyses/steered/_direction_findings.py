"""What `directions` found in this model: whether the direction steers, and whether the answer needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        "Added behind layer {best}, the direction of “{answer}” makes the model say it more: over the other options it "
        f"changes {numbers}",
        "It is not shown that the direction of “{answer}” steers: added behind layer {best}, that answer changes "
        f"{numbers}",
        about="whether the direction steers",
        figure="added",
        side="above",
        **_words(asked["row"]),
        **asked,
    )


def _needed(tables: Mapping[str, pd.DataFrame]) -> Finding:
    asked = tested(tables, NEEDED)
    numbers = "{value:.2f} logits {span:.2f} over the other; {control}: {beside:.2f}"
    return say(
        "The model needs the direction of “{answer}”: projected out behind layer {best}, the right answer loses "
        f"{numbers}",
        "It is not shown that the model needs the direction of “{answer}”: projected out behind layer {best}, the "
        f"right answer loses {numbers}",
        about="whether the model needs the direction",
        figure="out",
        side="above",
        **_words(asked["row"]),
        **asked,
    )


def _words(row: Any) -> dict[str, str]:
    """The layer that was best, and the answer."""
    if row is None or pd.isna(row["best"]):
        return {"best": "?", "answer": "?"}
    return {"best": str(int(row["best"])), "answer": str(row["answer"])}
