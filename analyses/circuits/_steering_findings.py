"""What `steering` found in this model: whether pointing heads at the wrong options repairs the task, where
its movers then look, and whether it needs its content gatherers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, say, tested
from ._gatherer_tables import GATHERERS, LOOK
from ._steering_tables import BORROWED, OWN

WHAT = {BORROWED: "the heads that IOI uses", OWN: "the heads found on this task"}


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Accuracy with heads steered minus without, beside the nearer of both controls."""
    return [*(_steered(tables, name) for name in (BORROWED, OWN)), _silent(tables), _looks(tables)]


def _silent(tables: Mapping[str, pd.DataFrame]) -> Finding:
    """The fall of accuracy without the heads that tell the movers where to look."""
    said = "accuracy changes by {value:+.0%} {span:+.0%}; {control}: {beside:+.0%}"
    return say(
        f"The task needs its content gatherers: without them {said}",
        f"The task is not shown to need its content gatherers: without them {said}",
        about="whether the task needs its content gatherers",
        figure="silent",
        side="below",
        **tested(tables, GATHERERS, "below"),
    )


def _looks(tables: Mapping[str, pd.DataFrame]) -> Finding:
    """How the movers' attention on the answer changes when the heads of IOI are steered."""
    said = "their attention on its token changes by {value:+.0%} {span:+.0%}; {control}: {beside:+.0%}"
    return say(
        f"Steering the heads that IOI uses turns the movers to the answer: {said}",
        f"Steering the heads that IOI uses is not shown to turn the movers to the answer: {said}",
        about="where the movers look when other heads are steered",
        figure="looks",
        side="above",
        **tested(tables, LOOK),
    )


def _steered(tables: Mapping[str, pd.DataFrame], name: str) -> Finding:
    asked = tested(tables, name)
    plain = one_row(tables.get("repair"), measure="accuracy", set="nothing steered", control="")
    row = asked["row"]
    harm = row is not None and row["value"] < 0 and not asked.get("untestable")
    from_to = "accuracy {verb} from {plain:.0%} by {points:.0%} {span:+.0%}; {control}: {beside:+.0%}"
    return say(
        f"Steering {WHAT[name]} {'harms' if harm else 'repairs'} the task (told which options are wrong): {from_to}",
        f"Steering {WHAT[name]} is not told from its control, though told which options are wrong: {from_to}",
        about=f"whether steering {WHAT[name]} repairs the task",
        figure="repair",
        side="below" if harm else "above",
        plain=float("nan") if plain is None else float(plain["value"]),
        verb="falls" if harm else "changes" if row is None or row["value"] == 0 else "rises",
        points=float("nan") if row is None else abs(float(row["value"])),
        **asked,
    )
