"""What `layer_similarity` found in this model: likeness beyond uniform attention and sinks, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_cost(tables), _alike(tables), _predicted(tables), _reach(tables)]


def _cost(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "A layer's pattern in the place of the next one's costs {value:.2f} {span:.2f} nats a token, less than "
        "{threshold:.1f}; {control}: {beside:.2f}",
        "It is not shown that the pattern of the layer below does in a layer's place, and better than another one: it "
        "costs {value:.2f} {span:.2f} nats a token; {control}: {beside:.2f}",
        **tested(tables, "another layer's pattern will do", "below"),
        about="whether another layer's pattern will do",
        figure="costs" if "costs" in tables else "neighbours",
        threshold=0.1,
        side="below",
    )


def _alike(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "Neighbouring layers attend alike: without the first token their cosine is {value:.2f} {span:.2f} above what "
        "they share with uniform attention; {control}: {beside:.2f}",
        "It is not shown that neighbouring layers attend more alike than layers far apart: {value:.2f} {span:.2f} "
        "above what they share with uniform attention; {control}: {beside:.2f}",
        **tested(tables, "neighbours attend alike"),
        about="how alike neighbours are",
        figure="likeness",
        side="above",
    )


def _predicted(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "How alike two neighbours are tells what it costs to use one's pattern for the other: rank correlation "
        "{value:.2f} {span:.2f} without the first token; {control}: {beside:.2f}",
        "It is not shown that likeness without the first token tells the cost of a replaced pattern better than with "
        "it: rank correlation {value:.2f} {span:.2f}; {control}: {beside:.2f}",
        **tested(tables, "likeness predicts the cost", "below"),
        about="whether likeness tells the cost",
        figure="costs" if "costs" in tables else "neighbours",
        side="below",
    )


def _reach(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "By entries above .1 the last position reaches {value:.0%} {span:.0%} of the prompt within half of the layers; "
        "{control}: {beside:.0%}",
        "It is not shown that large entries of attention reach further than as many random ones: {value:.0%} "
        "{span:.0%} of the prompt within half of the layers; {control}: {beside:.0%}",
        **tested(tables, "few hops reach all"),
        about="how far attention reaches",
        figure="reach",
        side="above",
    )
