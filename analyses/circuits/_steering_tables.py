"""Tables of `steering`: accuracy and logit difference with steered heads, beside both controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import HEADS
from ..common.frames import joined, summarise
from ..common.selection import measured_rows
from ..common.tested import number
from ._gatherer_tables import TABLES as BESIDE
from ._gatherer_tables import tested_beside

TOKENS = "random other tokens"


SETS = ("inhibition heads", "negative mover", "both", "found on this task")


BORROWED, OWN = SETS[2:]


MEASURES = {"accuracy": ("right", "share"), "logit difference": ("difference", "logits")}


def _scored(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "steering")


def _repair(rows: Rows, how: How) -> pd.DataFrame:
    """Each set and control; control "" with set "nothing steered" is the model as it is."""
    scored = _scored(rows, how)
    return joined([_repaired(scored, *of, how.options).assign(measure=name) for name, of in MEASURES.items()])


def _gain(rows: Rows, how: How) -> pd.DataFrame:
    """Steered minus not, and minus the mean of the draws of each control, example by example; beats: the share of draws
    below the steered value.
    """
    scored = _scored(rows, how)
    return joined([_gained(scored, *of).assign(measure=name) for name, of in MEASURES.items()])


def _repaired(rows: Rows, name: str, unit: str, options: Any) -> pd.DataFrame:
    groups = rows.examples["group"]
    parts = [summarise(rows[f"{name}|clean"], groups, {}, unit).assign(set="nothing steered", control="", draws=1)]
    if name == "right":
        parts.append(summarise(rows["guessing"], groups, {}, unit).assign(set="guessing", control="", draws=1))
    parts.append(summarise(rows[f"{name}|steered"], groups, {"set": SETS}, unit, control="", draws=1))
    for control in (HEADS, TOKENS):
        mean = rows[f"{name}|{control}"].mean(2)
        parts.append(summarise(mean, groups, {"set": SETS}, unit, control=control, draws=options.draws))
    return pd.concat(parts, ignore_index=True)


def _gained(rows: Rows, name: str, unit: str) -> pd.DataFrame:
    groups, own, parts = rows.examples["group"], rows[f"{name}|steered"], []
    for than, (other, draws) in _others(rows, name).items():
        frame = summarise(own - other, groups, {"set": SETS}, unit)
        better = np.nan if draws is None else _share_below(draws, own)
        parts.append(frame.assign(than=than, beats=better))
    return pd.concat(parts, ignore_index=True)


def _others(rows: Rows, name: str) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """What steering is compared with: [n, sets], and its draws [n, sets, draws] where it has some."""
    clean = np.broadcast_to(rows[f"{name}|clean"][:, None], rows[f"{name}|steered"].shape)
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {"nothing steered": (clean, None)}
    for control in (HEADS, TOKENS):
        draws = rows[f"{name}|{control}"]
        found[control] = draws.mean(2), draws
    return found


def _share_below(draws: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[sets]: the share of draws whose mean is below the steered one's; NaN where there are no draws."""
    means = draws.mean(0)
    return np.where(np.isnan(means).any(1), np.nan, (own.mean(0)[:, None] > means).mean(1))


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    """Accuracy steered minus not, and minus each control's."""
    rows = _scored(rows, how)
    own, groups, frames, borrowed = rows["right|steered"], rows.examples["group"], [], _not_borrowed(how)
    for name in (BORROWED, OWN):
        place = SETS.index(name)
        reason = "" if name == OWN and how.options.heads is None else borrowed
        for than, (other, _) in _others(rows, "right").items():
            gap = own[:, place] - other[:, place]
            control = "" if than == "nothing steered" else than
            frames.append(number(name, gap, groups, "gain in accuracy", than=control, untestable=reason))
    return pd.concat([*frames, *tested_beside(rows, borrowed, given=how.options.heads is not None)], ignore_index=True)


def _not_borrowed(how: How) -> str:
    """Why nothing can be said of heads that IOI uses, or ""."""
    if how.options.heads is not None:
        return "the heads were given, not found"
    return "" if how.learned.ioi else "the model does not solve IOI, whose heads are borrowed"


TABLES = {
    "repair": (_repair, ("set", "draws", "measure")),
    "gain": (_gain, ("set", "than", "beats", "measure")),
    **BESIDE,
    "tested": (_tested, ("claim", "than", "untestable")),
}
