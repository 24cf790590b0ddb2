"""What `lofit` found in this model: whether its heads matter, whether another seed names them, what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.circuit_overlap import above_depth
from ..common.claims import one_row
from ..common.findings import Finding, say, tested
from ._lofit_tables import CHOSEN, NEUTRAL, SEEDS, TWO_SEEDS

Tables = Mapping[str, pd.DataFrame]
DEPTH = "sets with as many heads in every layer"
COST = 0.05  # nats a token


def findings(tables: Tables) -> list[Finding]:
    """One sentence for each claim."""
    if "tested" not in tables:
        return []
    return [_chosen(tables), _seeds(tables), _neutral(tables)]


def _chosen(tables: Tables) -> Finding:
    numbers = "the answer's log p changes by {value:+.2f} {span:.2f} nats; {control}: {beside:+.2f}"
    return say(
        "The heads that training chooses matter: with offsets learned for them alone " + numbers,
        "It is not shown that it matters which heads get offsets: with the chosen ones " + numbers,
        **tested(tables, CHOSEN),
        about="which heads matter",
        figure="gain",
        side="above",
    )


def _seeds(tables: Tables) -> Finding:
    row = one_row(tables.get("overlap"), pair=TWO_SEEDS)
    if row is None:
        return say("", "", None, about=SEEDS, figure="overlap")
    return say(
        "Training again with another seed chooses {common} of {count} heads again, more than depth alone gives; "
        "{depth}: {expected:.1f}",
        "It is not shown that another seed of training chooses more heads again than depth alone gives: {common} of "
        "{count}; {depth}: {expected:.1f}",
        above_depth({**row}),
        about="whether another seed chooses the heads again",
        figure="overlap",
        side="above",
        p_value=float(row["p_value"]),
        common=int(row["common"]),
        count=int(row["heads"]),
        depth=DEPTH,
        expected=float(row["expected"] * row["heads"]),
    )


def _neutral(tables: Tables) -> Finding:
    numbers = "its loss changes by {value:+.3f} {span:.3f} nats a token; {control}: {beside:+.3f}"
    return say(
        "Neutral text stays as likely with the learned offsets in the chosen heads: " + numbers,
        "That the learned offsets leave neutral text alone is not shown: " + numbers,
        **tested(tables, NEUTRAL, "below"),
        about="what learned offsets do to neutral text",
        figure="neutral" if "neutral" in tables else "effects",
        threshold=COST,
        side="below",
    )
