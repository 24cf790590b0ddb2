"""What `rope_bases` found in this model: whether a mixture of rotary bases reads text better, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._base_tables import CLOSE, HELPS

NUMBERS = "its loss changes by {value:+.4f} {span:+.4f} nats a token; {control}: {beside:+.4f}"


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_helps(tables), _close(tables)]


def _helps(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        f"Mixing several rotary bases helps the model: {NUMBERS}",
        f"That mixing several rotary bases helps the model is not shown: {NUMBERS}",
        **tested(tables, HELPS, "below"),
        about="whether mixing rotary bases helps",
        figure="changes",
        side="below",
    )


def _close(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        f"Mixing several rotary bases costs the model little: {NUMBERS} alone",
        f"That mixing several rotary bases costs the model little is not shown: {NUMBERS} alone",
        **tested(tables, CLOSE, "below"),
        about="what mixing rotary bases costs",
        figure="changes",
        threshold=0.05,
        side="below",
    )
