"""Planted sums of channels: image and text that read the same channels, their own, or anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.representations import subnetworks
from crosslens.analyses.representations._subnetworks_rows import READS, SETS
from crosslens.analyses.representations._subnetworks_tables import ALIKE
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from

FOLDS, LAYERS, OUT, CHANNELS = 8, 4, 6, 64


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of(shared=0.8 if name == ALIKE or holds else 1.0) if holds or name != ALIKE else tables_of(shared=0.0)


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(subnetworks, rows(**planted))


def rows(*, shared: float = 0.8, images: bool = True, folds: int = FOLDS) -> Rows:
    """shared: of the strong channels of the image those that the text has too; 0: none of them, and the weights hardly
    differ, so that the norms decide.
    """
    rng = np.random.default_rng(0)
    strong = np.arange(CHANNELS) < CHANNELS // 2
    kept = np.roll(strong, round((1 - shared) * CHANNELS // 2))
    sums, values = {}, {}
    for name in dict.fromkeys(READS.values()):
        for one, mine in zip(SETS, (strong, kept), strict=True):
            size = np.where(mine, 100.0, 1.0) if images or one != SETS[0] else np.zeros(CHANNELS)
            noise = np.exp(0.6 * rng.normal(size=(folds, LAYERS, CHANNELS)))
            sums[f"{one}|{name}"] = size * noise
    for name in READS:
        values[name] = np.exp(0.5 * rng.normal(size=(LAYERS, OUT, CHANNELS)))
    counts = {name: np.full(value.shape, 5) for name, value in sums.items()}
    names = {"id": [f"e{i}" for i in range(folds)], "group": [f"g{i}" for i in range(folds)], "condition": "no BOS"}
    told = pd.DataFrame({"condition": "no BOS", "fold": range(folds)})
    return Rows(pd.DataFrame(names), {}, values, folds=told, sums=sums, counts=counts)
