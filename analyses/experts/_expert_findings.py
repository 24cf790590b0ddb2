"""What `experts` found in this model: how many experts are used, whether labels have their own, and need them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._expert_tested import HURTS, NEVER, OWN

Tables = Mapping[str, pd.DataFrame]
BAR = 0.1  # share of tokens
MOST = 0.6  # of the experts


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    return [_hurts(tables), _own(tables), _never(tables)] if "tested" in tables else []


def _hurts(tables: Tables) -> Finding:
    return say(
        "Texts need the experts of their own label: without them they lose {value:.3f} {span:.3f} nats a token more "
        "than without those of another label; {control}: {beside:.3f}",
        "It is not shown that texts need the experts of their own label more than those of another one: {value:+.3f} "
        "{span:+.3f} nats a token; {control}: {beside:+.3f}",
        **tested(tables, HURTS),
        about="what experts of one label are for",
        figure="removal" if "removal" in tables else "load",
        side="above",
    )


def _own(tables: Tables) -> Finding:
    return say(
        "Labels have experts of their own: chosen on other texts, they get {value:.0%} {span:.0%} more of their own "
        "label's tokens than experts of other labels do; {control}: {beside:.0%}",
        "It is not shown that labels have experts of their own: chosen on other texts, they get {value:.0%} "
        "{span:.0%} more of their own label's tokens than experts of other labels do; {control}: {beside:.0%}",
        **tested(tables, OWN),
        about="whether labels have experts of their own",
        figure="load",
        threshold=BAR,
        side="above",
    )


def _never(tables: Tables) -> Finding:
    return say(
        "{value:.0%} {span:.0%} of the experts get no token of all texts of this run, fewer than the {threshold:.0%} "
        "that a note reports of OLMoE; in {control}, by arithmetic never less, it is {beside:.0%}",
        "It is not shown that fewer than {threshold:.0%} of the experts stay without a token once all texts are read: "
        "{value:.0%} {span:.0%}; in {control}, by arithmetic never less, it is {beside:.0%}",
        **tested(tables, NEVER, "below"),
        about="how many experts are never active",
        figure="never",
        threshold=MOST,
        side="below",
    )
