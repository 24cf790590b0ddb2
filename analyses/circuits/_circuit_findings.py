"""What `circuits` found in this model: its strongest heads by stage, what they read, and how few of them there are.

Every head is named by its effect on one half of the groups; the number in the sentence is the other half's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, clears, mean_of, minus, place, rows_with, say, tested, turned
from ._circuit_tables import ATTENTION, DIRECT, EXACT, MOVERS, SPARSE, SPARSE_BAR

Tables = Mapping[str, pd.DataFrame]

SHOWN = 6  # heads that a sentence names
OTHERS = "the other heads of its layer"
ABOUT = "which heads carry the task"
HELPS = {
    EXACT: "carries the answer: with the corrupt twin's output in its place the answer's lead of {lead:.2f} logits "
    "falls by {value:.2f} {span:.2f}",
    DIRECT: "writes the answer: its path to the output alone is worth {value:.2f} logits {span:.2f} of the answer's "
    "lead of {lead:.2f}",
    MOVERS: "tells the heads that write the answer where to look: its path to their queries is worth {value:.2f} "
    "logits {span:.2f} of the answer's lead of {lead:.2f}",
}
HINDERS = {
    EXACT: "works against the answer: with the corrupt twin's output in its place the answer's lead of {lead:.2f} "
    "logits grows by {size:.2f} (helps by {value:.2f} {span:.2f})",
    DIRECT: "writes against the answer: its path to the output alone is worth {value:.2f} logits {span:.2f}, where the "
    "answer's lead is {lead:.2f}",
    MOVERS: "misleads the heads that write the answer: its path to their queries is worth {value:.2f} logits "
    "{span:.2f}, where the answer's lead is {lead:.2f}",
}


def findings(tables: Tables) -> list[Finding]:
    """The strongest head of each stage, each head once, and the share of the effect that a few heads hold."""
    sparse = tested(tables, "sparse")
    made = [] if sparse["row"] is None else [_few(tables, sparse)]
    if sparse.get("untestable"):
        return made
    seen: set[str] = set()
    for stage in (EXACT, DIRECT, MOVERS):
        rows = rows_with(tables.get("circuit"), stage=stage, measure=stage, rank=1)
        if len(rows) and place(rows.iloc[0]) not in seen:
            seen.add(place(rows.iloc[0]))
            made.append(_strongest(tables, stage, rows.iloc[0]))
    return made


def _few(tables: Tables, sparse: dict[str, Any]) -> Finding:
    members = rows_with(tables.get("circuit"), stage=EXACT, measure=EXACT)  # in the order of their ranks
    count = max(1, round(SPARSE * len(rows_with(tables.get("effects"), part="head", measure=EXACT))))
    named = [place(row) for _, row in members.iterrows()] if len(members) == count else []  # the circuit's own share
    return say(
        "A few heads carry the task: {told} hold {value:.0%} {span:.0%} of all heads' effect, {control} {beside:.0%}",
        "It is not shown that a few heads carry the task: the strongest 2 % hold {value:.0%} {span:.0%} of all heads' "
        "effect, {control} {beside:.0%} (difference {gap:+.0%} {gap_span:+.0%}); more than a third is asked for",
        about=ABOUT,
        figure="effects",
        threshold=SPARSE_BAR,
        side="above",
        heads=" ".join(named),
        told=", ".join(named[:SHOWN]) + ", …" * (len(named) > SHOWN) if named else "the strongest 2 %",
        **sparse,
    )


def _strongest(tables: Tables, stage: str, row: pd.Series) -> Finding:
    head, own = place(row), turned(row)
    beside = mean_of(_others(tables, stage, row))
    lead = one_row(tables.get("task"), measure="logit difference", control="")
    said = (HELPS if own["value"] > 0 else HINDERS)[stage]
    control = {} if beside is None else {"margin": minus(own, turned(beside)), "control": OTHERS}
    behind = "" if beside is None else "; {control}: {beside:.2f}"
    return say(
        f"Head {head} {said}{behind}{{reads}}",
        f"Head {head} leads among the heads of one half of the groups, but is not told from its layer on the other: "
        f"worth {{value:.2f}} logits {{span:.2f}}{behind}",
        own,
        about=ABOUT,
        figure="effects",
        heads=head,
        lead=float("nan") if lead is None else float(lead["value"]),
        size=abs(own["value"]),
        reads=_reads(tables, stage, row),
        **control,
    )


def _others(tables: Tables, measure: str, row: pd.Series) -> pd.DataFrame:
    """The cells of the other heads of a head's layer that are in no stage's circuit, or of all others where all are."""
    beside = rows_with(tables.get("effects"), part="head", measure=measure, layer=row["layer"])
    beside = beside[beside["head"] != row["head"]]
    members = {place(one) for _, one in tables["circuit"].iterrows()}
    free = beside[[place(one) not in members for _, one in beside.iterrows()]]
    return free if len(free) else beside


def _reads(tables: Tables, stage: str, row: pd.Series) -> str:
    """Behind the sentence: which marked word the head attends to, where it does so more than its layer."""
    known = rows_with(tables.get("circuit"), stage=stage, layer=row["layer"], head=row["head"])
    known = known[known["measure"].astype(str).str.startswith(ATTENTION)]
    if known.empty:
        return ""
    most = known.iloc[int(known["value"].argmax())]
    others = mean_of(_others(tables, most["measure"], row))
    if others is None or not clears(minus(most, others), among=len(known)):
        return ""
    mark = str(most["measure"]).removeprefix(ATTENTION).replace("_", " ")
    said = f". It attends to the {mark} with {most['value']:.0%} of the last position's attention"
    return f"{said} ({OTHERS}: {others['value']:.0%})".replace("%", " %")
