"""Planted rows of layer_similarity: neighbours that are alike, patterns that can be swapped, edges that reach all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.attention import layer_similarity
from crosslens.analyses.attention._likeness import KINDS, SHARES, THRESHOLDS
from crosslens.analyses.attention._swapped import BELOW, REMOVED
from crosslens.analyses.common.controls import SHUFFLED_PROMPT, UNIFORM

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS = 40, 20, 8


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        alike=-0.2 if wrong == "neighbours attend alike" else 0.5,
        below=0.5 if wrong == "another layer's pattern will do" else 0.02,
        told=0.0 if wrong == "likeness predicts the cost" else 1.0,
        reached=0.5 if wrong == "few hops reach all" else 0.97,
        weak=0.5 if wrong == "weak entries do little" else 0.01,
    )


def tables_of(
    *,
    alike: float = 0.5,
    far: float = 0.1,
    below: float = 0.02,
    other: float = 0.2,
    told: float = 1.0,
    plainly: float = 0.0,
    reached: float = 0.97,
    random: float = 0.3,
    weak: float = 0.01,
    swaps: bool = True,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """alike: cosine of neighbours over uniform, far of other layers. below, other: mean costs of swaps. told: how much
    of the order of costs is that of likeness, plainly with the first token in it. reached, random: coverage.
    """
    rng = np.random.default_rng(seed)

    def drawn(value: Any, *shape: int, noise: float = 0.005) -> np.ndarray:
        return value + noise * rng.normal(size=(N, *shape))

    apart = np.abs(np.subtract.outer(np.arange(LAYERS), np.arange(LAYERS)))
    values: dict[str, np.ndarray] = {}
    wave = np.where(np.arange(LAYERS) % 2, 0.05, -0.05)
    order = np.argsort(np.argsort(wave + 0.001 * np.arange(LAYERS))) / LAYERS
    for kind, share in zip(KINDS, (plainly, told), strict=True):
        like = np.where(apart == 1, alike, far) + 0.3
        like = like - share * 0.05 * (order[:, None] - 0.5) * (apart == 1)
        values[f"alike|{kind}"] = drawn(like, LAYERS, LAYERS, noise=0.003 if share else 0.02)
        values[f"floor|{kind}"] = drawn(0.3, LAYERS, LAYERS)
        for name in ("best", "best, shuffled"):
            values[f"{name}|{kind}"] = drawn(0.5, LAYERS)
    for name in ("rolled", "rolled, uniform"):
        values[name] = drawn(0.2, LAYERS, len(SHARES))
    values["reached"] = drawn(reached, len(THRESHOLDS), LAYERS)
    values["reached, random"] = drawn(random, len(THRESHOLDS), LAYERS)
    if swaps:
        values["clean"] = drawn(3.0)
        values[f"cost|{BELOW}"] = drawn(below + 0.01 * (order - 0.5), LAYERS, noise=0.001)
        values[f"cost|{BELOW}"][:, 0] = np.nan
        values[f"cost|{UNIFORM}"] = drawn(1.0, LAYERS)
        values[f"cost|{SHUFFLED_PROMPT}"] = drawn(other, LAYERS)
        values["removed"] = drawn(np.array([weak, 2.0]), len(REMOVED))
    return tables_from(layer_similarity, rows_of(values, GROUPS))
