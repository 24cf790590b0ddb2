"""What `subnetworks` found: how far image and text use the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.findings import Finding, say, tested
from ._subnetworks_tables import ALIKE, OWN

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    shared: dict[str, Any] = {"figure": "overlap", "side": "above"}
    return [
        say(
            "Image and text use the same weights: the IoU of those that each uses most is {value:.2f} {span:.2f} above "
            "that of random masks, and {gap:.2f} {gap_span:.2f} than with {control}",
            "It is not shown that image and text use the same weights: the IoU of those that each uses most is "
            "{value:.2f} {span:.2f} above that of random masks, and {gap:.2f} {gap_span:.2f} than with {control}",
            **tested(tables, ALIKE),
            about="which weights image and text use",
            threshold=0.1,
            **shared,
        ),
        say(
            "Each has weights of its own: two halves of one kind of token share {value:.2f} {span:.2f} more of them "
            "(IoU) than image and text do; {control}: {beside:.2f}",
            "It is not shown that each has weights of its own: two halves of one kind of token share {value:.2f} "
            "{span:.2f} more of them (IoU) than image and text do; {control}: {beside:.2f}",
            **tested(tables, OWN),
            about="whether image and text have weights of their own",
            threshold=0.05,
            **shared,
        ),
    ]
