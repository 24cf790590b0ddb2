"""What `dictionaries` found in this model: how good a dictionary is, and whether its directions do anything."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    return [_recovered(tables), _steers(tables), _explains(tables)] if "tested" in tables else []


def _recovered(tables: Tables) -> Finding:
    return say(
        "The model keeps most of what it uses when a state is told by a dictionary's few features: of the loss that "
        "the mean state costs {value:.0%} {span:.0%} is recovered; {control}: {beside:.0%}",
        "It is not shown that a dictionary's few features keep what the model uses: of the loss that the mean state "
        "costs {value:.0%} {span:.0%} is recovered; {control}: {beside:.0%}",
        **tested(tables, "loss recovered"),
        about="how much of a state's use a dictionary keeps",
        figure="quality",
        threshold=0.8,
        side="above",
    )


def _steers(tables: Tables) -> Finding:
    return say(
        "Features of a label do what they stand for: added to other texts they change the probability of its words by "
        "{value:+.3f} {span:+.3f}; {control}: {beside:+.3f}",
        "It is not shown that features of a label do what they stand for: added to other texts they change the "
        "probability of its words by {value:+.3f} {span:+.3f}; {control}: {beside:+.3f}",
        **tested(tables, "features steer"),
        about="what features of a label do",
        figure="steering" if "steering" in tables else "quality",
        side="above",
    )


def _explains(tables: Tables) -> Finding:
    return say(
        "A dictionary's features tell more of a state than as many principal components: {value:.0%} {span:.0%} more "
        "of the variance; with {control} instead {beside:+.0%}",
        "It is not shown that a dictionary's features tell more of a state than as many principal components: "
        "{value:+.0%} {span:+.0%} of the variance; with {control} instead {beside:+.0%}",
        **tested(tables, "more than components"),
        about="how much of a state a dictionary tells",
        figure="quality",
        side="above",
    )
