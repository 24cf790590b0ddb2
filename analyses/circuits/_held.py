"""How much of all heads' effect the strongest heads hold.

exact: the name of the rows of effects [n, layer, head] that are asked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.contrast import apart
from ..common.controls import HEADS
from ..common.frames import joined, of_heads, summarise
from ..common.selection import at, at_random, halves
from ..common.tested import nothing, number

HELD = "share of the summed |effect|"
SIZES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0)


class _Turned(NamedTuple):
    """first: mean effects [layer, head] of the choosing half; turned: the other half's [n, layer, head], each head's
    sign the choosing half's, so that noise adds nothing to a sum; whole: that sum [n]; groups [n].
    """

    first: torch.Tensor
    turned: np.ndarray
    whole: np.ndarray
    groups: pd.Series


def _turned(rows: Rows, how: How, exact: str) -> _Turned | None:
    """None where one group cannot be halved."""
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    if not chosen.any():
        return None
    values = rows[exact]
    first = values[chosen].mean(0)
    turned = values[other] * np.sign(first)
    return _Turned(torch.tensor(first), turned, of_heads(turned).sum((1, 2)), rows.examples["group"][other])


def held_by(claim: str, share: float, rows: Rows, how: How, exact: str, reason: str) -> list[pd.DataFrame]:
    """The top heads' share in Σ |effect|, and the same minus that of random heads of their layers."""
    found = _turned(rows, how, exact)
    if found is None:
        return [nothing(claim, "one group cannot be halved")]
    if not apart(found.whole, found.groups):
        return [nothing(claim, reason or "the two halves of the groups do not agree on any effect")]
    top = metrics.top_heads(found.first, share)
    own, drawn = at(found.turned, top).sum(1), at_random(found.turned, top).sum(1)
    both = {"denominators": found.whole, "untestable": reason}
    margin = number(claim, own - drawn, found.groups, HELD, than=HEADS, **both)
    return [number(claim, own, found.groups, HELD, **both), margin]


def needed(rows: Rows, how: How, exact: str) -> pd.DataFrame | None:
    """The share of Σ |effect| that the strongest heads hold, by their share of all heads, beside as many random heads
    of the same layers where there are so many; heads: how many they are.
    """
    found = _turned(rows, how, exact)
    if found is None or not apart(found.whole, found.groups):
        return None
    frames = []
    for share in SIZES:
        top = metrics.top_heads(found.first, share)
        for values, control in ((at(found.turned, top), ""), (at_random(found.turned, top), HEADS)):
            named = {"share": share, "heads": len(top), "control": control}
            frames.append(summarise(values.sum(1), found.groups, {}, HELD, denominators=found.whole, **named))
    return joined(frames)
