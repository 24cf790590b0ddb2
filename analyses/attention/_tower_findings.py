"""What `tower_profile` found: whether blocks look near or far."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    return [_further(tables), _near(tables), _own(tables)] if "tested" in tables else []


def _further(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The vision tower looks further in its last blocks than in its first: attended patches are {value:+.2f} "
        "{span:+.2f} patches further away",
        "It is not shown that the vision tower looks further in its last blocks than in its first: {value:+.2f} "
        "{span:+.2f} patches",
        **tested(tables, "later blocks look further"),
        about="how far blocks look",
        figure="distance",
        side="above",
    )


def _near(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The first blocks of the vision tower look near: the mean distance of attended patches differs by {value:+.2f} "
        "{span:+.2f} patches from uniform attention's",
        "It is not shown that the first blocks of the vision tower look nearer than uniform attention would: "
        "{value:+.2f} {span:+.2f} patches",
        **tested(tables, "early blocks look near", "below"),
        about="whether early blocks look near",
        figure="distance",
        side="below",
    )


def _own(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "Patches look at themselves: {value:.3f} {span:.3f} of a patch's attention more than uniform attention gives "
        "it",
        "It is not shown that patches look at themselves more than uniform attention would: {value:+.3f} {span:+.3f} "
        "of a patch's attention",
        **tested(tables, "patches look at themselves"),
        about="what patches give themselves",
        figure="own",
        side="above",
    )
