"""What `highlighting` found in this model: whether pointing heads at the right words helps, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._highlighting_tables import CHOSEN, EVERY, NEUTRAL

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_chosen(tables), _every(tables), _neutral(tables)]


def _chosen(tables: Tables) -> Finding:
    return say(
        "Highlighting the right words in chosen heads helps: the answer's lead rises by {value:.2f} {span:.2f} logits; "
        "{control}: {beside:+.2f}",
        "That highlighting the right words in chosen heads helps is not shown: the answer's lead changes by "
        "{value:+.2f} {span:.2f} logits; {control}: {beside:+.2f}",
        **tested(tables, CHOSEN),
        about="highlighting in chosen heads",
        figure="gain",
        side="above",
    )


def _every(tables: Tables) -> Finding:
    return say(
        "Highlighting the right words in every head hurts: the answer's lead changes by {value:+.2f} {span:.2f} "
        "logits; {control}: {beside:+.2f}",
        "That highlighting the right words in every head hurts is not shown: the answer's lead changes by {value:+.2f} "
        "{span:.2f} logits; {control}: {beside:+.2f}",
        **tested(tables, EVERY, "below"),
        about="highlighting in every head",
        figure="effects",
        side="below",
    )


def _neutral(tables: Tables) -> Finding:
    return say(
        "Neutral text stays as likely when random words of it are highlighted in the chosen heads: its loss changes "
        "by {value:+.3f} {span:.3f} nats a token; {control}: {beside:+.3f}",
        "That highlighting in the chosen heads leaves neutral text alone is not shown: its loss changes by "
        "{value:+.3f} {span:.3f} nats a token; {control}: {beside:+.3f}",
        **tested(tables, NEUTRAL, "below"),
        about="what highlighting does to neutral text",
        figure="neutral" if "neutral" in tables else "effects",
        threshold=0.1,
        side="below",
    )
