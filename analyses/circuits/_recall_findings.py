"""What `recall` found in this model: what movers read, what an MLP copies of them, where b and the last MLP point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.findings import Finding, place, rows_with, say, tested
from ._recall_tested import ATTENTION, COPIED, LAST_MLP, READ, REDIRECTED

Tables = Mapping[str, pd.DataFrame]
HALF = 0.5  # of what varies, as the claim has it


def findings(tables: Tables) -> list[Finding]:
    """One sentence for each of four claims."""
    if "tested" not in tables:
        return []
    return [_copied(tables), _redirected(tables), _last(tables), _read(tables)]


def _movers(tables: Tables) -> str:
    rows = rows_with(tables.get("heads"), measure=ATTENTION, chosen=True)
    return " ".join(place(row) for _, row in rows.iterrows())


def _late(tables: Tables) -> str:
    """The layer of the MLP that is regressed; without one nothing is said of it."""
    rows = rows_with(tables.get("copied"))
    return str(int(rows["layer"].iloc[0])) if len(rows) else ""


def _copied(tables: Tables) -> Finding:
    numbers = "a weighted sum of their outputs tells {value:.1%} {span:.1%} of what varies in its own from prompt to "
    numbers += "prompt; {control}: {beside:.1%}"
    return say(
        "The MLP of layer {late} follows the movers: " + numbers,
        "It is not shown that the MLP of layer {late} mostly follows the movers: " + numbers,
        **tested(tables, COPIED),
        about="whether a late MLP follows the movers",
        figure=_figure(tables, "copied"),
        threshold=HALF,
        side="above",
        heads=_movers(tables),
        late=_late(tables),
    )


def _redirected(tables: Tables) -> Finding:
    numbers = "b adds {value:+.2f} {span:.2f} logits to it; {control}: {beside:+.2f}"
    return say(
        "What the MLP of layer {late} adds whatever the subject is points to the answer: " + numbers,
        "It is not shown that what the MLP of layer {late} adds whatever the subject is points to the answer: "
        + numbers,
        **tested(tables, REDIRECTED),
        about="where b points",
        figure=_figure(tables, "redirection"),
        side="above",
        late=_late(tables),
    )


def _last(tables: Tables) -> Finding:
    numbers = "it adds {value:+.2f} {span:.2f} logits to it; {control}: {beside:+.2f}"
    return say(
        "The last MLP works against the answer: " + numbers,
        "It is not shown that the last MLP works against the answer: " + numbers,
        **tested(tables, LAST_MLP, "below"),
        about="what the last MLP writes",
        figure="direct",
        side="below",
    )


def _read(tables: Tables) -> Finding:
    numbers = "beyond what uniform attention gives it, they spend {value:.0%} {span:.0%} of the last position's "
    numbers += "attention on it; {control}: {beside:.0%}"
    return say(
        "Movers look at the subject: " + numbers,
        "It is not shown that movers look at the subject: " + numbers,
        **tested(tables, READ),
        about="what movers look at",
        figure="heads",
        side="above",
        heads=_movers(tables),
    )


def _figure(tables: Mapping[str, Any], name: str) -> str:
    return name if name in tables else "direct"
