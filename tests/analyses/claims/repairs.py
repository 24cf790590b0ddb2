"""Planted rows of repairs: one repair mends half of what is wrong and its random control nothing; or it does harm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.repairs import _tables, repairs
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS = 120, 40
OPTIONS = repairs.Options(alphas=(2.0, 0.5), ps=(0.4,), betas=(0.4,), draws=3, timed=0)
LEARNED: dict[str, Any] = {"dimensions": (3,), "tau": 5.0, "heads": ((2, 0),)}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    repair, below = name.split()[0], "below 1" in name
    share = -0.5 if below == holds else 0.5  # below 1 what holds is that it does harm
    return made({f"{repair} below 1" if below else repair: share}, captions="CHAIR_I" in name, leads=below)


def made(*args: Any, **planted: Any) -> dict[str, pd.DataFrame]:
    """Tables of planted rows."""
    return tables_from(repairs, rows(*args, **planted), OPTIONS, **LEARNED)


def rows(
    mended: dict[str, float],
    *,
    captions: bool = False,
    solved: float = 0.75,
    visual: float = 1.0,
    controls: float = 0.0,
    leads: bool = False,
) -> Rows:
    """mended: by repair (and "VHR below 1"), the share of wrong answers (objects) that become right; below 0, of right
    ones that become wrong. controls: the same of every control. solved: what the plain model gets right. visual:
    layers with a sink. leads: the right answer leads by 1, or lags by 1.
    """
    rng = np.random.default_rng(0)
    plain, luck = rng.random(N) < solved, rng.random((N, OPTIONS.draws))
    values = {
        _tables.WITH_SINK: np.full(N, visual),
        _tables.CALIBRATED: np.ones(N),
        "heads": np.zeros((N, 4, 3)),
    }
    for variant in repairs.variants(OPTIONS, repairs.Learned(**LEARNED)):
        repair = "VHR below 1" if variant.repair == "VHR" and variant.setting < 1 else variant.repair
        share = controls if variant.control else mended.get(repair, 0.0)
        right = np.where(luck < abs(share), share > 0, plain[:, None])[:, : variant.draws].astype(float)
        values[variant.key] = (
            _caption(right) if captions else np.stack([right, right, 2 * right - 1][: 3 if leads else 2], 2)
        )
    return rows_of(values, GROUPS)


def _caption(right: np.ndarray) -> np.ndarray:
    """Two objects named, one of them wrong where the answer is not right."""
    one = np.ones_like(right)
    return np.stack([2 * one, 1 - right, 1 + right, 3 * one, 9 * one], 2)
