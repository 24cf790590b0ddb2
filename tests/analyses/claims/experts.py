"""Planted rows of experts: labels with experts of their own that their texts need, all experts used; and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.experts import experts
from crosslens.analyses.experts._expert_rows import HOW
from crosslens.analyses.experts._expert_tested import HURTS, NEVER, OWN

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, EXPERTS, K, TOKENS = 60, 30, 4, 8, 2, 40.0
LABELS = ("code", "French", "prose")
SPECIFIC = [[(1, 0)], [(1, 1)], [(2, 2)]]
RANDOM = [[(1, 4)], [(1, 5)], [(2, 6)]]
LEARNED: dict[str, Any] = {"k": K, "labels": LABELS, "specific": SPECIFIC, "random": [RANDOM] * 2}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        own=0.3 if wrong == OWN else 0.9,
        never=0.8 if wrong == NEVER else 0.0,
        hurts=-1.0 if wrong == HURTS else 1.0,
    )


def tables_of(
    *,
    own: float = 0.9,
    never: float = 0.0,
    hurts: float = 1.0,
    random: float = 0.0,
    labels: bool = True,
    out: bool = True,
) -> dict[str, pd.DataFrame]:
    """own: the share of a label's tokens that go to its expert; of another label's, .3. never: the share of experts
    without a token. hurts, random: what texts lose without their label's expert, and without random ones. labels:
    whether there are any. out: whether experts were taken out.
    """
    rng = np.random.default_rng(0)
    chosen = TOKENS * (0.25 + 0.02 * rng.random((N, LAYERS, EXPERTS)))
    chosen *= rng.random(chosen.shape) > 0.5  # one text does not use all
    label = np.arange(N) // 2 % len(LABELS)
    for i, ((layer, expert),) in enumerate(SPECIFIC):
        share = np.where(label == i, own, 0.3)
        chosen[:, layer, expert] = TOKENS * (share + 0.05 * rng.random(N))
    silent = round(never * EXPERTS)
    if silent:
        chosen[:, :, EXPERTS - silent :] = 0.0
        chosen[:, 0] = chosen[:, 3] = 0.0
    gates = chosen / K + 0.1
    cost = 0.1 * rng.random((N, len(LABELS), len(HOW)))
    cost[np.arange(N), label] += (hurts, random)
    values = {"chosen": chosen, "given": chosen / K, "gates": gates, "tokens": np.full(N, TOKENS)}
    values["entropy"] = TOKENS * (1 + 0.1 * rng.random((N, LAYERS)))
    values |= {"clean": np.full(N, 3.0), "removed": cost} if out and labels else {}
    named = {"label": np.array(LABELS)[label]} if labels else {}
    rows = rows_of(values, GROUPS, **named)
    return tables_from(experts, rows, **(LEARNED if labels else {"k": K}))
