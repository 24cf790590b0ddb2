"""What `influence` found in this model: how far its heads reach, and what needs picture and question together."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    return [_near(tables), _together(tables), _calibrated(tables)] if "tested" in tables else []


def _near(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "What heads need for the answer lies near: ln of a near key's influence over that of a far one is {value:+.2f} "
        "{span:+.2f}, with {control} {beside:+.2f}",
        "It is not shown that heads need near keys more than far ones: ln of their influences' ratio is {value:+.2f} "
        "{span:+.2f}, with {control} {beside:+.2f}",
        **tested(tables, "influence is near"),
        about="how far the heads reach",
        figure="influence",
        side="above",
    )


def _together(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "Picture and question say the answer together: {value:+.2f} {span:+.2f} nats more than each alone would add; "
        "{control}: {beside:+.2f}",
        "It is not shown that picture and question say the answer together: {value:+.2f} {span:+.2f} nats more than "
        "each alone would add; {control}: {beside:+.2f}",
        **tested(tables, "picture and question together"),
        about="what picture and question say together",
        figure="interaction" if "interaction" in tables else "influence",
        side="above",
    )


def _calibrated(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "First-order estimates of masking can be read here: over each layer's largest they correlate {value:.2f} "
        "{span:.2f} with masking for real, {control} {beside:.2f}",
        "First-order estimates of masking are to be read with care here: over each layer's largest they correlate "
        "{value:.2f} {span:.2f} with masking for real, {control} {beside:.2f}",
        **tested(tables, "first order is enough"),
        about="how good first-order estimates are",
        figure="calibration",
        threshold=0.5,
        side="above",
    )
