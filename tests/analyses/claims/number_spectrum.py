"""Planted rows of waves over the numbers: slow ones in MLPs, fast ones in attention, and the sum needs them there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import number_spectrum
from crosslens.analyses.lenses._number_rows import MODULES, READ, parts_of
from crosslens.analyses.lenses._number_tables import NEED_FAST, NEED_SLOW, SHARES

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, P, DRAWS = 60, 20, 6, 10, 2
OPTIONS = number_spectrum.Options(draws=DRAWS)
PARTS = [*parts_of(P, OPTIONS.cut)]


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        apart=-1.0 if wrong == SHARES else 1.0,
        slow=-1.0 if wrong == NEED_SLOW else 1.0,
        fast=-1.0 if wrong == NEED_FAST else 1.0,
    )


def tables_of(
    *,
    apart: float = 1.0,
    slow: float = 1.0,
    fast: float = 1.0,
    control: float = 0.0,
    words: float = 0.0,
    right: float = 0.9,
) -> dict[str, pd.DataFrame]:
    """apart: slow waves in MLPs and fast ones in attention (1), or the other way round (−1). slow, fast: logits that
    MLPs lose more than attention without slow waves, and attention more than MLPs without fast ones. control: the
    share of both that numbers in another order lose. words: how far apart random words are. right: the accuracy.
    """
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {"answer": rng.integers(1, P, N).astype(float), "numbers": np.full(N, float(P))}
    numbers, noise = np.arange(P), lambda *shape: 0.1 * rng.normal(size=shape)
    for module, sign in (("attention", -1), ("MLP", 1)):
        wave = np.cos(2 * np.pi * (1 if sign * apart > 0 else 4) * numbers / P)
        logits = wave + noise(N, LAYERS, P)
        values[f"logits|{module}"] = logits - logits.mean(-1, keepdims=True)
        share = np.array([2, 2, 2, 2, 1]) / 9
        tilt = sign * words * np.array([0.2, 0.1, -0.1, -0.1, -0.1])
        values[f"random|{module}"] = np.tile(share + tilt, (N, LAYERS, 1)) * rng.uniform(0.9, 1.1, (N, LAYERS, 5))
        values[f"random size|{module}"] = 0.5 + noise(N, LAYERS)
    kinds = np.array([1.0, *[control] * DRAWS, *[0.0] * DRAWS])
    lost = np.zeros((len(kinds), len(MODULES), len(PARTS)))
    lost[:, 1, 0], lost[:, 0, 1] = kinds * slow, kinds * fast
    for name, clean in zip(READ, (3 + noise(N), (rng.random(N) < right).astype(float), 1 + noise(N)), strict=True):
        values[f"clean|{name}"] = clean
        values[f"filtered|{name}"] = clean[:, None, None, None] - lost + noise(N, *lost.shape)
    return tables_from(number_spectrum, rows_of(values, GROUPS), OPTIONS)
