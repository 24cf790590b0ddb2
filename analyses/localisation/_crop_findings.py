"""What `crop_and_ask` found in this model: whether the crop holds what is asked for, and whether it helps to see it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._crop_asking import BESIDE


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested, each beside the control that comes nearest."""
    if "tested" not in tables:
        return []
    return [_helps(tables), _holds(tables), _small(tables), _carve(tables)]


def _helps(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "A crop of where the model looks helps it: {value:+.1%} {span:+.1%} right answers beside the whole picture "
        "alone, {gap:+.1%} {gap_span:+.1%} beside {control}",
        "It is not shown that a crop of where the model looks helps it: {value:+.1%} {span:+.1%} right answers beside "
        "the whole picture alone, {gap:+.1%} {gap_span:+.1%} beside {control}",
        **tested(tables, "cropping helps"),
        about="whether a crop of where the model looks helps it",
        figure=_figure(tables),
        side="above",
    )


def _holds(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The crop holds what is asked for: the share of the object in it is {value:+.0%} {span:+.0%} above the crop's "
        "share of the picture, and {gap:+.0%} {gap_span:+.0%} above that in a {control}",
        "It is not shown that the crop holds what is asked for: the share of the object in it is {value:+.0%} "
        "{span:+.0%} above the crop's share of the picture, {gap:+.0%} {gap_span:+.0%} above that in a {control}",
        **tested(tables, "the crop holds it"),
        about="what the crop holds",
        figure="crops",
        side="above",
    )


def _small(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The crop helps small objects more than large ones: {value:+.1%} {span:+.1%} right answers, and more than "
        "{control} does by {gap:+.1%} {gap_span:+.1%}",
        "It is not shown that the crop helps small objects more: {value:+.1%} {span:+.1%} right answers, {gap:+.1%} "
        "{gap_span:+.1%} beside {control}",
        **tested(tables, "more for small objects"),
        about="whether the crop helps small objects more",
        figure=_figure(tables, "sizes", "sizes-alone"),
        side="above",
    )


def _carve(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "CARVE's crop alone helps: {value:+.1%} {span:+.1%} right answers beside the whole picture, {gap:+.1%} "
        "{gap_span:+.1%} beside {control}",
        "It is not shown that CARVE's crop alone helps: {value:+.1%} {span:+.1%} right answers beside the whole "
        "picture, {gap:+.1%} {gap_span:+.1%} beside {control}",
        **tested(tables, "CARVE helps"),
        about="whether CARVE's crop helps",
        figure="alone",
        side="above",
    )


def _figure(tables: Mapping[str, pd.DataFrame], beside: str = "gains", alone: str = "alone") -> str:
    """The figure of crops beside the whole picture where they were asked about so."""
    gains = tables.get("gains")
    return beside if gains is not None and (gains["shown"] == BESIDE).any() else alone
