"""Planted rows of the logit lens: curves that do what the papers say, or the opposite."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import lenses

from ...helpers.makers import tables_from
from . import rows_of

N, STATES = 40, 13


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    states = np.arange(STATES) / (STATES - 1)
    # Late: the probability rises in the last third; early: it is there from the first state on.
    rise = np.where(states > 0.7, states, 0.05) if holds else np.full(STATES, 0.9)
    probability = 0.8 * rise * rng.uniform(0.9, 1.1, (N, STATES))
    fall = -states if holds else states
    kl = 2 + fall + 0.03 * rng.normal(size=(N, STATES))
    with_norm, without = (kl, kl + rng.uniform(0.5, 1, (N, 1)))[:: 1 if holds else -1]
    made = {"logit_difference": rng.uniform(1, 2, N)}
    for norm, values in zip(lenses.NORMS, (with_norm, without), strict=True):
        made |= {f"resid|{norm}|{m}": np.zeros((N, STATES)) for m in ("entropy", "top1")}
        made |= {f"resid|{norm}|{m}": np.stack([probability] * 2, -1) for m in ("probability", "rank")}
        made[f"resid|{norm}|kl"] = values
    return tables_from(lenses, rows_of(made, groups=20), lenses.Options(sites=("resid",), subset=""))
