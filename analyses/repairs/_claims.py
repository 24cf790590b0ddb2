"""What the papers say of their repairs, and which of it holds here."""

from __future__ import annotations

import pandas as pd

from ..common.claims import Claim, Statement, judge, one_row, unsolved
from ._tables import ABOVE_CHANCE, CALIBRATED, LEAD, WITH_SINK

REPORTED = {"VHR lowers CHAIR_I": 0.0971 - 0.1432}  # LLaVA-1.5
SOURCES = {"VHR": "arXiv 2412.13949", "VAR": "arXiv 2503.03321", "ACT": "arXiv 2406.15765"}
STATEMENTS = tuple(
    Statement(
        f"{repair} {way} {measure}",
        f"{repair} {way} {measure} against the plain model, and by more than its random control.",
        source,
        side="above" if way == "raises" else "below",
        paper=REPORTED.get(f"{repair} {way} {measure}"),
    )
    for way, measure in (("raises", "accuracy"), ("lowers", "CHAIR_I"))
    for repair, source in SOURCES.items()
)

# α below 1 lets the same heads speak lower; the lead is finer than answers, few of which such a step turns.
LOWERED = {
    LEAD: Statement(
        "VHR below 1 lowers the lead",
        "VHR with α below 1 lowers the lead of the right answer, and by more than with random heads.",
        SOURCES["VHR"],
        side="below",
    ),
    "CHAIR_I": Statement(
        "VHR below 1 raises CHAIR_I",
        "VHR with α below 1 raises CHAIR_I, and by more than with random heads.",
        SOURCES["VHR"],
    ),
}


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The papers' statements about the measures of this task, at each repair's first strength; VHR's also below 1."""
    found = tables["differences"].query("subset == 'all' and control == ''")
    measures = set(found["measure"])
    needed, lower = tables.get("preconditions"), found[found["setting"] < 1]
    named = [(s, s.name.split(" ", 2)[0], s.name.split(" ", 2)[2]) for s in STATEMENTS]
    made = [_claim(s, repair, measure, found, needed) for s, repair, measure in named if measure in measures]
    return made + [_claim(s, "VHR", measure, lower, needed) for measure, s in LOWERED.items() if measure in measures]


def _claim(statement: Statement, repair: str, measure: str, found: pd.DataFrame, needed: pd.DataFrame | None) -> Claim:
    mine = found[(found["repair"] == repair) & (found["measure"] == measure)]
    if mine.empty:
        return judge(statement, None, untestable="not run here")
    first = mine[mine["setting"] == mine["setting"].iloc[0]]
    random = next((name for name in first["against"] if name.startswith("random")), "")
    margin = one_row(first, against=random) if random else None
    why = untestable(repair, needed)
    return judge(statement, one_row(first, against="plain"), margin=margin, control=random, untestable=why)


def untestable(repair: str, needed: pd.DataFrame | None) -> str:
    """Why nothing can be said of a repair, "" where something can."""
    chance, visual, heads = (
        one_row(needed, subset="all", measure=name) for name in (ABOVE_CHANCE, WITH_SINK, CALIBRATED)
    )
    if repair == "VAR" and visual is not None and not visual["value"] > 0:
        return "no layer has a visual sink in any example"
    if repair == "ACT" and heads is not None and not heads["value"] > 0:
        return "no head's calibration changes answers and does no harm on average on the held-out examples"
    return unsolved(chance)
