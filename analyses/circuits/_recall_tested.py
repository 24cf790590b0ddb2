"""Table "tested" of `recall`: what its claims are about."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.contrast import unsolved
from ..common.controls import HEADS, UNIFORM, WORDS
from ..common.selection import at, at_random, halves
from ..common.tested import nothing, number
from ._recall_parts import RELATIONS, REST, Halves, along, gains, halves_of, movers_of, parts_of_mlp, written_directly
from ._recall_rows import ANSWER, OTHER

READ, COPIED, REDIRECTED = "movers read the subject", "the MLP follows the movers", "b points to the answer"
LAST_MLP, LAST_HEADS = "the last MLP doubts", "the last heads doubt"
ATTENTION = "attention on the subject"
SHARE, LOGITS = "share of variance", "logits"
ONE_RELATION = f"no control: there are no {RELATIONS}, the task has one relation"
NO_HEADS = "no head was found that the answer needs"


def tested_of(rows: Rows, how: How) -> pd.DataFrame:
    reason, found = unsolved(rows), halves_of(rows, how)
    made = [*_read(rows, how, reason), *_doubts(rows, reason)]
    if found is None:
        lacking = reason or (NO_HEADS if "movers" not in rows.values else "one group cannot be halved")
        made += [nothing(COPIED, lacking), nothing(REDIRECTED, lacking)]
    else:
        made += [*_copies(found, rows, reason), *_points(found, reason)]
    return pd.concat(made, ignore_index=True)


def _copies(found: Halves, rows: Rows, reason: str) -> Iterator[pd.DataFrame]:
    scored, groups = ~found.prompts.fitted, found.scored.examples["group"]
    (_, own, whole), *controls = gains(found, rows)
    both = {"denominators": whole[scored], "untestable": reason}
    yield number(COPIED, own[scored], groups, SHARE, **both)
    for control, gained, _ in controls:
        yield number(COPIED, (own - gained)[scored], groups, SHARE, than=control, **both)


def _points(found: Halves, reason: str) -> Iterator[pd.DataFrame]:
    groups, added = found.scored.examples["group"], along(parts_of_mlp(found)[REST], found.scored)
    reason = reason or ("" if RELATIONS in added else ONE_RELATION)  # the statement asks for both controls
    yield number(REDIRECTED, added[ANSWER], groups, LOGITS, untestable=reason)
    for control in (WORDS, RELATIONS):
        if control in added:
            margin = added[ANSWER] - added[control]
            yield number(REDIRECTED, margin, groups, LOGITS, than=control, untestable=reason)


def _read(rows: Rows, how: How, reason: str) -> Iterator[pd.DataFrame]:
    """Attention of the movers on the subject minus uniform attention, and minus that of random heads."""
    heads, looked = movers_of(how), f"head|{ATTENTION}"
    _, other = halves(rows.examples["group"], how.learned.selected_on)
    if not heads or looked not in rows.values:
        yield nothing(READ, reason or (NO_HEADS if not heads else "the task does not mark the subject"))
        return
    attention, groups = rows[looked][other], rows.examples["group"][other]
    own, drawn = at(attention, heads).mean(1), at_random(attention, heads).mean(1)
    yield number(READ, own - rows[UNIFORM][other], groups, "attention", untestable=reason)
    yield number(READ, own - drawn, groups, "attention", than=HEADS, untestable=reason)


def _doubts(rows: Rows, reason: str) -> Iterator[pd.DataFrame]:
    """What the last layer writes for the answer, and the same minus what it writes for the twin's."""
    groups = rows.examples["group"]
    own, other = (written_directly(rows, word) for word in (ANSWER, OTHER))
    for claim, part in ((LAST_MLP, "MLP"), (LAST_HEADS, "heads")):
        of, than = own[part][:, -1], other[part][:, -1]
        if np.isnan(of).all():
            yield nothing(claim, "the last layer has no heads")
            continue
        yield number(claim, of, groups, LOGITS, untestable=reason)
        yield number(claim, of - than, groups, LOGITS, than=OTHER, untestable=reason)
