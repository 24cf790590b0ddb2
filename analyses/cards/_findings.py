"""What the card says of this model: what it answers from the image, what it makes up, what it has kept."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, minus, say


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of what the run has asked for."""
    bars = tables.get("bars")
    seen, swapped, hard, harder, worst = (
        one_row(bars, claim=name) for name in ("seen", "swapped", "CHAIR hard", "pope", "basic 90")
    )
    made = [] if seen is None or swapped is None else [_from_image(seen, swapped)]
    made += [] if worst is None else [_basic(worst)]
    made += [] if hard is None else [_made_up(hard)]
    return made + ([] if harder is None else [_harder(harder)])


def _from_image(seen: pd.Series, swapped: pd.Series) -> Finding:
    return say(
        "The answers come from the image: the model is right {value:.0%} {span:.0%} more often than the best constant "
        "answer, with {control} {beside:+.0%}",
        "The answers do not come from the image alone: beside the best constant answer {value:+.0%} {span:+.0%} with "
        "its own image, {beside:+.0%} with {control}",
        seen,
        about="what the model sees",
        figure="controls",
        margin=minus(seen, swapped),
        control="another scene's image",
        side="above",
    )


def _basic(row: pd.Series) -> Finding:
    return say(
        "Every basic kind of question about clear scenes is answered right in more than nine of ten cases: the worst "
        "in {value:.0%} {span:.0%}",
        "Not every basic kind of question about clear scenes is sure to be answered right: the worst in {value:.0%} "
        "{span:.0%}",
        row,
        about="basic questions",
        figure="accuracy",
        threshold=0.9,
        side="above",
    )


def _made_up(row: pd.Series) -> Finding:
    return say(
        "In captions of hard scenes {value:.0%} {span:.0%} of the object words are made up",
        "It is not shown that captions of hard scenes make things up: {value:.0%} {span:.0%} of their object words",
        row,
        about="hallucinated words",
        figure="captions",
        threshold=0.05,
        side="above",
    )


def _harder(row: pd.Series) -> Finding:
    return say(
        "Likely but absent objects are believed more readily than random ones: F1 is lower by {value:.2f} {span:.2f}",
        "Likely but absent objects are not believed more readily than random ones: F1 is lower by {value:.2f} "
        "{span:.2f}",
        row,
        about="absent objects that are likely",
        figure="pope",
        side="above",
    )
