"""What the logit lens found in this model: where the answer becomes readable, and which layer's attention names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.claims import one_row, unsolved
from ..common.findings import Finding, minus, rows_with, say, turned
from ._lens_tables import NORM_GAIN, NORMS, READ_BEFORE, SITES

Tables = Mapping[str, pd.DataFrame]

WRONG = "wrong answer"
PARTS = {SITES[1]: "The attention of layer {layer}", SITES[2]: "MLP {layer}"}


def findings(tables: Tables) -> list[Finding]:
    """The part that ranks the answer best, the state that gives half of its probability, and what the norm does."""
    solved = unsolved(one_row(tables.get("accuracy"), measure="pair accuracy − guessing", subset="all"))
    told = _part(tables, solved)
    compared = tables.get("compared")
    late, norm = (one_row(compared, measure=measure) for measure in (READ_BEFORE, NORM_GAIN))
    if late is not None:
        told.append(_late(tables, late, solved))
    if norm is not None:
        told.append(_norm(norm))
    return told


def _read(tables: Tables, site: str, measure: str, control: str = "") -> pd.DataFrame:
    where: dict[str, Any] = {"site": site, "norm": NORMS[0], "measure": measure, "subset": "all"}
    return rows_with(tables.get("lens"), **where, control=control)


def _part(tables: Tables, solved: str) -> list[Finding]:
    """The layer whose attention or MLP alone ranks the answer highest; where it names it in most prompts, how often."""
    ranks = pd.concat([_read(tables, site, "rank") for site in PARTS], ignore_index=True)
    if ranks.empty:
        return []
    best = ranks.iloc[int(ranks["value"].argmin())]
    site, layer = str(best["site"]), int(best["state"]) - 1
    named, other_named, other, stream = (
        one_row(_read(tables, *of), state=best["state"])
        for of in ((site, "top1"), (site, "top1", WRONG), (site, "rank", WRONG), (SITES[0], "rank"))
    )
    names = named is not None and other_named is not None and best["value"] < 1
    gap = None if other is None else minus(other, best) | {"unit": "ranks ahead of the wrong answer"}
    behind = "" if stream is None else ", the whole stream behind it {stream:,.0f}"
    ranked = f"(median rank {{rank:,.0f}} of all tokens; {{control}} {{other:,.0f}}{behind})"
    said = "alone names the answer in {value:.0%} {span:.0%} of the prompts" if names else "comes nearest to the answer"
    return [
        say(
            f"{{part}} {said} {ranked}",
            f"{{part}} comes nearest to the answer, but is not told from its control {ranked}",
            named if names else gap,
            about="which part names the answer",
            figure="rank",
            margin=minus(named, other_named) if names and named is not None and other_named is not None else None,
            control=WRONG,
            side="above",
            among=len(ranks),
            untestable=solved,
            heads=f"L{layer}",
            part=PARTS[site].format(layer=layer),
            **{name: _rank(row) for name, row in (("rank", best), ("other", other), ("stream", stream))},
        )
    ]


def _rank(row: pd.Series | None) -> float:
    """Counted from 1."""
    return float("nan") if row is None else float(row["value"] + 1)


def _late(tables: Tables, row: pd.Series, solved: str) -> Finding:
    curve = _read(tables, SITES[0], "probability")
    last = int(curve["state"].max())
    half = curve[curve["value"] >= curve["value"].iloc[-1] / 2]["state"].min()
    return say(
        "The stream gives the answer late: half of its final probability is read at state {half} of {last}, "
        "{value:.0%} {span:.0%} of it two thirds up",
        "It is not shown that the answer is readable late: two thirds up the lens gives it {value:.0%} {span:.0%} of "
        "its final probability",
        row,
        about="when the answer becomes readable",
        figure="probability",
        threshold=0.5,
        side="below",
        untestable=solved,
        half=int(half),
        last=last,
    )


def _norm(row: pd.Series) -> Finding:
    return say(
        "Without the final norm the lens reads {more}: over the second half of the states KL to the output is "
        "{value:+.3g} {span:+.3g} nats beside what it is with it",
        "The final norm makes no difference that is told: KL without it {value:+.2g} {span:+.2g} nats",
        turned(row),
        about="what the final norm does",
        figure="kl",
        more="worse" if row["value"] < 0 else "better",
    )
