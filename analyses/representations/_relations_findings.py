"""What `relations` found of two models: how near they are, and whether they part in the upper layers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._relations_tables import NEAR, OTHER, UPPER


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    other = str(tables["layers"]["reference"].iloc[0]) if "layers" in tables else OTHER
    return [_near(tables, other), _upper(tables, other)]


def _near(tables: Mapping[str, pd.DataFrame], other: str) -> Finding:
    return say(
        "The model relates its tokens as {other} does: their divergence is {value:.0%} {span:.0%} of that of "
        "the model's own relations on two texts; {control}: {beside:.0%}",
        "It is not shown that the model relates its tokens as {other} does: their divergence is {value:.0%} "
        "{span:.0%} of that of the model's own relations on two texts; {control}: {beside:.0%}",
        **tested(tables, NEAR, "below"),
        about="how near the two models are",
        figure="shares" if "shares" in tables else "layers",
        threshold=0.5,
        side="below",
        other=other,
    )


def _upper(tables: Mapping[str, pd.DataFrame], other: str) -> Finding:
    return say(
        "The model and {other} part most in the upper half of the layers: their divergence is {value:+.0%} {span:+.0%} "
        "of its mean larger there than in the lower half; {control}: {beside:+.0%}",
        "It is not shown that the model and {other} part most in the upper half of the layers: their divergence is "
        "{value:+.0%} {span:+.0%} of its mean larger there than in the lower half; {control}: {beside:+.0%}",
        **tested(tables, UPPER),
        about="where the two models part",
        figure="layers",
        side="above",
        other=other,
    )
