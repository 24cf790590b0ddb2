"""What `edges` found in this model: its strongest edge, whether edges repeat, and whether a gradient finds them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.agreement import FIVE
from ..common.findings import Finding, rows_with, say, tested, turned
from ._edge_names import AGAIN_BAR, RANKS_BAR

ABOUT = "which edges carry the task"


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of edges chosen on one half of the groups, the numbers of the other."""
    again, ranks = tested(tables, "again"), tested(tables, "ranks")
    made = [
        say(
            "The strongest edges are the task's, not the prompts': in other groups they keep {value:.0%} {span:.0%} of "
            "the effect that they were chosen by",
            "It is not shown that the strongest edges keep more than {threshold:.0%} of the effect that they were "
            "chosen by in other groups: they keep {value:.0%} {span:.0%}",
            about=ABOUT,
            figure="strongest",
            threshold=AGAIN_BAR,
            side="above",
            **again,
        ),
        say(
            "One gradient finds the heads that write to the output: its ranking correlates with that of exact paths by "
            "{value:.2f} {span:.2f}",
            "It is not shown that one gradient ranks the heads that write to the output as exact paths do: its ranking "
            "correlates with theirs by {value:.2f} {span:.2f}, which is not shown to be above {threshold:.1f}",
            about="how well gradients find edges",
            figure="agreement",
            threshold=RANKS_BAR,
            side="above",
            **ranks,
        ),
    ]
    first = rows_with(tables.get("edges"), measure=FIVE, rank=1)
    return made if ranks.get("untestable") or first.empty else [_strongest(first.iloc[0]), *made]


def _strongest(row: pd.Series) -> Finding:
    own = turned(row)
    verb = "helps" if own["value"] > 0 else "works against"
    heads = [word for word in str(row["edge"]).replace("→", " ").split() if word.replace(".", "", 1).isdigit()]
    return say(
        f"The edge {{edge}} {verb} the answer most: it is worth {{value:.2f}} logits {{span:.2f}} (estimated by "
        "gradients, in groups that it was not chosen on)",
        "The edge {edge} leads where edges were chosen, but not in other groups: {value:.2f} logits {span:.2f}",
        own,
        about=ABOUT,
        figure="strongest",
        heads=" ".join(word for word in heads if "." in word),
        edge=row["edge"],
    )
