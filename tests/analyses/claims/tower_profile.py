"""Planted rows of tower_profile: a tower that looks near first and far later, at itself, and one that does not."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.attention import tower_profile
from crosslens.analyses.attention._tower_rows import HOPS, STATISTICS, UPDATES

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, HEADS = 40, 20, 6, 4
NEAR = 6  # distances that the grid has


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        rise=-1.0 if wrong == "later blocks look further" else 1.0,
        early=1.0 if wrong == "early blocks look near" else -1.0,
        own=-0.02 if wrong == "patches look at themselves" else 0.1,
    )


def tables_of(
    *, rise: float = 1.0, early: float = -1.0, own: float = 0.1, layers: int = LAYERS, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """rise: patches further in the last block than in the first. early, own: over uniform attention."""
    rng = np.random.default_rng(seed)
    shape = (N, layers, HEADS)
    depth = np.linspace(0, 1, layers)[None, :, None]
    values = {name: 0.2 + 0.01 * rng.normal(size=shape) for name in STATISTICS}
    values |= {f"even|{name}": np.full(N, 0.05) for name in STATISTICS}
    values["patch_to_self"] = 0.05 + own + 0.01 * rng.normal(size=shape)
    values["distance"] = 3.0 + early + rise * depth + 0.1 * rng.normal(size=shape)
    values["even|distance"] = np.full(N, 3.0)
    kind = (np.arange(layers)[:, None] + np.arange(HEADS)) % 2  # two kinds of heads
    profile = np.where(kind[..., None] == 0, np.exp(-np.arange(NEAR)), np.exp(np.arange(NEAR) - NEAR))
    hops = np.zeros((*shape, HOPS))
    hops[..., :NEAR] = profile / profile.sum(-1, keepdims=True) + 0.01 * rng.random((*shape, NEAR))
    values["hops"] = hops
    values["even|hops"] = np.tile(np.r_[np.full(NEAR, 1 / NEAR), np.zeros(HOPS - NEAR)], (N, 1))
    values["update"] = 0.3 + 0.01 * rng.normal(size=(N, layers, len(UPDATES)))
    return tables_from(tower_profile, rows_of(values, GROUPS))
