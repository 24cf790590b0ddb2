"""What `looking` found in this model: whether it does better when it is made to look more."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._looking_tables import ABSENT, ALL, GAZED, HEADS_HELP

Tables = Mapping[str, pd.DataFrame]
NUMBERS = "the answer's lead changes by {value:+.2f} {span:+.2f} logits; {control}: {beside:+.2f}"


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_helps(tables, *words) for words in SENTENCES]


SENTENCES = (
    (HEADS_HELP, "reading the picture more in the heads that read it most", "helps", "effects"),
    (ALL, "reading the picture more in every head", "helps", "effects"),
    (GAZED, "reading the patches more that the gaze moves to", "helps", "gaze"),
    (ABSENT, "reading the patches more that the gaze moves to", "helps where the right answer is no", "gaze-asked"),
)


def _helps(tables: Tables, claim: str, doing: str, helps: str, figure: str) -> Finding:
    return say(
        f"{doing[0].upper()}{doing[1:]} {helps}: {NUMBERS}",
        f"That {doing} {helps} is not shown: {NUMBERS}",
        **tested(tables, claim),
        about=f"whether {doing} {helps}",
        figure=figure if figure in ("effects", "gaze") or _apart(tables) else "gaze",
        side="above",
    )


def _apart(tables: Tables) -> bool:
    """Whether questions with other right answers are shown apart."""
    return "effects" in tables and tables["effects"]["questions"].nunique() > 1
