"""What `looking` found in this model: whether it does better when it is made to look more, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._looking_tables import ALL, GAZED, HEADS_HELP, TEXT

Tables = Mapping[str, pd.DataFrame]
NUMBERS = "the answer's lead changes by {value:+.2f} {span:+.2f} logits; {control}: {beside:+.2f}"


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [*(_helps(tables, *words) for words in SENTENCES), _text(tables)]


SENTENCES = (
    (HEADS_HELP, "reading the picture more in the heads that read it most", "helps", "effects"),
    (ALL, "reading the picture more in every head", "helps", "effects"),
    (GAZED, "reading the patches more that the gaze moves to", "helps", "gaze"),
)


def _helps(tables: Tables, claim: str, doing: str, helps: str, figure: str) -> Finding:
    return say(
        f"{doing[0].upper()}{doing[1:]} {helps}: {NUMBERS}",
        f"That {doing} {helps} is not shown: {NUMBERS}",
        **tested(tables, claim),
        about=f"whether {doing} {helps}",
        figure=figure if "effects" in tables else "tested",
        side="above",
    )


def _text(tables: Tables) -> Finding:
    numbers = "its loss changes by {value:+.3f} {span:+.3f} nats a token; {control}: {beside:+.3f}"
    return say(
        "Text behind a picture that it has nothing to do with stays as likely when the chosen heads read the picture "
        f"more: {numbers}",
        "That text behind a picture that it has nothing to do with stays as likely when the chosen heads read the "
        f"picture more is not shown: {numbers}",
        **tested(tables, TEXT, "below"),
        about="what reading the picture more does to other text",
        figure="neutral" if "neutral" in tables else "effects",
        threshold=0.1,
        side="below",
    )
