"""What `weights` found in this model: heads that read single components, symmetry, rotary pairs, crowded keys."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_components(tables), _symmetric(tables), _pairs(tables), _crowded(tables)]


def _components(tables: Tables) -> Finding:
    return say(
        "Most heads read single components of earlier heads: for {value:.0%} {span:.0%} of them the strongest one that "
        "their keys read scores above every one of permuted weights; {control}: {beside:.0%}",
        "It is not shown that most heads read single components of earlier heads: for {value:.0%} {span:.0%} of them "
        "the strongest one that their keys read scores above every one of permuted weights; {control}: {beside:.0%}",
        **tested(tables, "components stand out"),
        about="composition of heads",
        figure="composition" if "between" in tables else "edge",
        threshold=0.5,
        side="above",
    )


def _symmetric(tables: Tables) -> Finding:
    return say(
        "What a head looks for resembles what it is found by: {value:.0%} {span:.0%} of the scores' matrix is "
        "symmetric, more than half; {control}: {beside:.0%}",
        "It is not shown that heads' scores are more symmetric than chance: {value:.0%} {span:.0%} of their matrix is; "
        "{control}: {beside:.0%}",
        **tested(tables, "symmetric scores"),
        about="how symmetric scores are",
        figure="symmetric" if "beside_chance" in tables else "edge",
        threshold=0.5,
        side="above",
    )


def _pairs(tables: Tables) -> Finding:
    return say(
        "A quarter of the rotary pairs carries most of the scores: {value:.0%} {span:.0%} of their use; {control}: "
        "{beside:.0%}",
        "A quarter of the rotary pairs holds {value:.0%} {span:.0%} of their use; {control}: {beside:.0%}. That it is "
        "more than half is not shown",
        **tested(tables, "few rotary pairs"),
        about="which rotary frequencies are used",
        figure="pairs" if "pairs" in tables else "edge",
        threshold=0.5,
        side="above",
    )


def _crowded(tables: Tables) -> Finding:
    return say(
        "Keys are crowded: without their mean, the mean squared cosine of different keys is {value:.1f} {span:.1f} "
        "times that of random directions",
        "Without their mean, the mean squared cosine of different keys is {value:.1f} {span:.1f} times that of random "
        "directions: it is not shown to be more than twice",
        **tested(tables, "keys interfere"),
        about="how far keys lie apart",
        figure="keys" if "keys" in tables and len(tables["keys"]) else "edge",
        threshold=2.0,
        side="above",
    )
