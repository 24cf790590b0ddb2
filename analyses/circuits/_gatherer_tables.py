"""Tables of `steering` beside the repair: the task without its content gatherers, and where its movers look."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.contrast import unsolved
from ..common.controls import HEADS
from ..common.frames import summarise
from ..common.selection import measured_rows
from ..common.tested import nothing, number

GATHERERS, LOOK = "content gatherers", "movers look"
WRONG, RIGHT = "the wrong options", "the answer"
MEASURES = {"accuracy": ("right", "share"), "logit difference": ("difference", "logits")}
UNHEARD = "no head was found that the task's movers hear"
GIVEN = "the heads were given: content gatherers were not looked for"


def _silent(rows: Rows, how: How) -> pd.DataFrame | None:
    """Accuracy and logit difference as they are, without the content gatherers, and without random heads."""
    if "silent|right" not in rows.values:
        return None
    scored = measured_rows(rows, how.learned.selected_on, "steering")
    groups, frames = scored.examples["group"], []
    for measure, (name, unit) in MEASURES.items():
        shared: dict[str, Any] = {"measure": measure, "silent": GATHERERS}
        own, drawn = f"silent|{name}", scored[f"silent|{name}|{HEADS}"].mean(1)
        frames.append(
            summarise(scored[f"{own}|clean"], groups, {}, unit, **{**shared, "silent": "no head"}, control="")
        )
        frames.append(summarise(scored[own], groups, {}, unit, **shared, control=""))
        frames.append(summarise(drawn, groups, {}, unit, **shared, control=HEADS))
    return pd.concat(frames, ignore_index=True)


def _looks(rows: Rows, how: How) -> pd.DataFrame | None:
    """The movers' attention on the answer and on the wrong options before and after the repair."""
    marks = [mark for mark in (RIGHT, WRONG) if f"looks|{mark}|clean" in rows.values]
    if not marks:
        return None
    scored = measured_rows(rows, how.learned.selected_on, "steering")
    groups, frames = scored.examples["group"], []
    for mark in marks:
        for name, set_, control in (("clean", "nothing steered", ""), ("steered", "both", ""), (HEADS, "both", HEADS)):
            values = scored[f"looks|{mark}|{name}"]
            frames.append(summarise(values, groups, {}, "attention", mark=mark, set=set_, control=control))
    return pd.concat(frames, ignore_index=True)


def tested_beside(rows: Rows, borrowed: str, *, given: bool) -> list[pd.DataFrame]:
    """The rows of table tested: accuracy without the gatherers, and the movers' attention on the answer, each as a
    difference from the model as it is and from random heads.

    borrowed: why nothing can be said of the heads that IOI uses, or "". given: whether heads were given, and so no
    gatherers looked for.
    """
    groups = rows.examples["group"]
    own, clean, drawn = f"looks|{RIGHT}|steered", f"looks|{RIGHT}|clean", f"looks|{RIGHT}|{HEADS}"
    frames = [nothing(LOOK, borrowed or "the task does not mark the answer's token, or its movers were not looked for")]
    if own in rows.values:
        frames = _pair(LOOK, rows[own] - rows[clean], rows[own] - rows[drawn], groups, "attention", borrowed)
    if "silent|right" not in rows.values:
        return [*frames, nothing(GATHERERS, GIVEN if given else UNHEARD)]
    gap = rows["silent|right"] - rows["silent|right|clean"]
    beside = rows["silent|right"] - rows[f"silent|right|{HEADS}"].mean(1)
    return [*frames, *_pair(GATHERERS, gap, beside, groups, "change of accuracy", unsolved(rows))]


def _pair(
    claim: str, gap: np.ndarray, beside: np.ndarray, groups: pd.Series, unit: str, reason: str = ""
) -> list[pd.DataFrame]:
    row = number(claim, gap, groups, unit, untestable=reason)
    return [row, number(claim, beside, groups, unit, than=HEADS, untestable=reason)]


TABLES = {
    "silent": (_silent, ("silent", "measure")),
    "looks": (_looks, ("set", "mark")),
}
