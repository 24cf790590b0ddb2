"""What `localisation` found in this model: whether its attention, and which few heads, find what is asked for."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, place, say, tested


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested, each beside the control that comes nearest."""
    if "tested" not in tables:
        return []
    return [_heads(tables), _looks(tables), _wrong(tables), _contrast(tables)]


def _heads(tables: Mapping[str, pd.DataFrame]) -> Finding:
    localizers = tables.get("localizers", pd.DataFrame())
    heads = [place(one) for _, one in localizers.iterrows()]
    return say(
        "Heads {named}, chosen without a box, find what is asked for: their map's AUROC is {value:.2f} {span:.2f}; of "
        "{control} {beside:.2f}",
        "It is not shown that few heads find what is asked for: the AUROC of heads {named} is {value:.2f} {span:.2f}, "
        "of {control} {beside:.2f}",
        **tested(tables, "few heads localise"),
        about="few heads that find what is asked for",
        figure="methods",
        threshold=0.5,
        side="above",
        heads=" ".join(heads),
        named=", ".join(heads),
    )


def _looks(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The model looks at what it is asked for: in the middle layers its last position gives the box {value:.2f} "
        "{span:.2f} times what boxes of that size get; for {control} {beside:.2f}",
        "It is not shown that the model looks at what it is asked for: in the middle layers the box gets {value:.2f} "
        "{span:.2f} times what boxes of that size get, for {control} {beside:.2f}",
        **tested(tables, "looks at it"),
        about="whether the model looks at what it is asked for",
        figure="answers",
        threshold=1.0,
        side="above",
    )


def _wrong(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "Where its answer is wrong the model looks there nonetheless: {value:.2f} {span:.2f} times what boxes of that "
        "size get; for {control} {beside:.2f}",
        "It is not shown that the model looks at what it is asked for where its answer is wrong: {value:.2f} "
        "{span:.2f} times what boxes of that size get, for {control} {beside:.2f}",
        **tested(tables, "looks at it when wrong"),
        about="where the model looks when it answers wrong",
        figure="answers",
        threshold=1.0,
        side="above",
    )


def _contrast(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The contrast with a general prompt finds what is asked for: AUROC {value:.2f} {span:.2f}, of {control} "
        "{beside:.2f}",
        "It is not shown that the contrast with a general prompt finds more than either map: AUROC {value:.2f} "
        "{span:.2f}, of {control} {beside:.2f}",
        **tested(tables, "contrast"),
        about="the contrast with a general prompt",
        figure="layers",
        threshold=0.5,
        side="above",
    )
