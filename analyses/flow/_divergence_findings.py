"""What `head_divergence` found in this model: which heads react to the image rather than to any change of the prompt,
and whether that tells hallucinated words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..common.claims import LEVEL, one_row
from ..common.findings import Finding, place, rows_with, say
from ._divergence_heads import ANOTHER_IMAGE, ANOTHER_QUESTION, LEADING, control_of
from ._divergence_words import STRATIFIED

Tables = Mapping[str, pd.DataFrame]

NAMED = 5  # heads and layers that a sentence names at most


def findings(tables: Tables) -> list[Finding]:
    """Of the first way of taking the image away."""
    heads = rows_with(tables.get("heads"))
    ways = [way for way in heads["way"].unique() if not control_of(way)] if len(heads) else []
    if not ways:
        return []
    way = str(ways[0])
    return [*_heads(tables, way), *_words(tables, way), *_few(tables, way)]


def _heads(tables: Tables, way: str) -> list[Finding]:
    """The heads that lose more with the image than with another question; p is within the family of all heads."""
    excess = rows_with(tables.get("excess"), way=way, measure="relative", control=ANOTHER_QUESTION)
    if excess.empty:
        return []
    row = excess.iloc[int(excess["value"].argmax())]
    sure = excess[(excess["p_family"] <= 1 - LEVEL) & (excess["value"] > 0)].sort_values("value", ascending=False)
    layers = sure["layer"].astype(int).value_counts()
    most = ", ".join(map(str, sorted(layers.index[:NAMED]))) if len(layers) else ""
    return [
        say(
            "{count} of {all} heads react to the image more than to another question, most of them in layers {layers}; "
            "the strongest is {head}, by {value:.2f} {span:.2f} of its norm",
            "No head is sure to react to the image more than to another question: {head} comes nearest, by {value:.2f} "
            "{span:.2f} of its norm (p {p:.2g} among all heads)",
            row,
            about="which heads react to the image",
            figure="excess",
            side="above",
            p_value=float(row["p_family"]),
            heads=" ".join(place(one) for _, one in sure.head(NAMED).iterrows()) or place(row),
            count=len(sure),
            all=len(excess),
            layers=most,
            head=place(row),
            p=float(row["p_family"]),
        )
    ]


def _words(tables: Tables, way: str) -> list[Finding]:
    row = one_row(tables.get("auroc"), way=way, level=STRATIFIED)
    margin, control = _margin(tables, way, STRATIFIED, ANOTHER_IMAGE, ANOTHER_QUESTION)
    why = "" if control else f"there is no {ANOTHER_IMAGE} to compare with"
    return [
        say(
            "What heads lose without the image tells hallucinated words from correct ones: AUROC {value:.2f} "
            "{span:.2f}; {control}: {beside:.2f}",
            "What heads lose without the image does not tell hallucinated words better than its control: AUROC "
            "{value:.2f} {span:.2f}, {control} {beside:.2f} (chance 0.5)",
            row,
            about="hallucinated words",
            figure="auroc",
            margin=margin,
            control=control,
            threshold=0.5,
            side="above",
            untestable=why if row is not None else "there are no hallucinated or no correct words",
        )
    ]


def _few(tables: Tables, way: str) -> list[Finding]:
    row = one_row(tables.get("stability"), way=way, measure=LEADING)
    margin, control = _margin(tables, way, LEADING, ANOTHER_QUESTION)
    if row is None or margin is None:
        return []
    return [
        say(
            "A tenth of the heads holds {value:.0%} {span:.0%} of all divergence without the image; {control}: "
            "{beside:.0%}",
            "That a tenth of the heads holds {value:.0%} {span:.0%} of all divergence is nothing of the image: with "
            "{control} it holds {beside:.0%}",
            row,
            about="how few heads read the image",
            figure="stability",
            margin=margin,
            control=control,
            threshold=0.1,
            side="above",
        )
    ]


def _margin(tables: Tables, way: str, measure: str, *controls: str) -> tuple[pd.Series | None, str]:
    """The margin over the first of these controls that was measured."""
    for control in controls:
        row = one_row(tables.get("margins"), way=way, measure=measure, control=control)
        if row is not None and not np.isnan(row["value"]):
            return row, control
    return None, ""
