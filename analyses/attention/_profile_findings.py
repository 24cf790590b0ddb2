"""What `attention_profile` found in this model: width, neighbourhood, ranks, of which the first token and masks explain
much.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_local(tables), _wider(tables), _trivial(tables), _rank(tables)]


def _local(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "Heads look at the token before: without the first token it gets {value:.2f} {span:.2f} of a row's attention "
        "more than uniform attention would give it",
        "It is not shown that heads look at the token before more than uniform attention would: {value:+.3f} "
        "{span:+.3f} of a row's attention, without the first token",
        **tested(tables, "attention is local"),
        about="how local attention is",
        figure="layers",
        side="above",
    )


def _wider(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "In longer contexts attention covers a smaller part of what it could: its entropy over that of uniform "
        "attention changes by {value:+.3f} {span:+.3f} from rows of 16 keys to the longest; {control}: {beside:+.3f}",
        "It is not shown that attention covers a smaller part of long contexts than of short ones for what the text "
        "says: entropy over uniform {value:+.3f} {span:+.3f}; {control}: {beside:+.3f}",
        **tested(tables, "wider in long contexts", "below"),
        about="attention in long contexts",
        figure="lengths",
        side="below",
    )


def _trivial(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "Own token, previous and first explain {value:.0%} {span:.0%} more of the variance of the heads' maps than of "
        "uniform attention's",
        "It is not shown that own token, previous and first explain more of the heads' maps than of uniform "
        "attention's: {value:+.0%} {span:+.0%} of the variance",
        **tested(tables, "trivial patterns"),
        about="what trivial patterns explain",
        figure="indicators",
        side="above",
    )


def _rank(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The rank of maps tells layers apart: it varies by {value:.2f} {span:.2f} of the largest possible from layer "
        "to layer; {control}: {beside:.2f}",
        "It is not shown that the rank of maps says more of a layer than the sharpness of its rows: it varies by "
        "{value:.2f} {span:.2f} of the largest possible; {control}: {beside:.2f}",
        **tested(tables, "layers by rank"),
        about="ranks of maps",
        figure="maps" if "maps" in tables else "indicators",
        side="above",
    )
