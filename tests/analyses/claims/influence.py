"""Planted rows of influence: heads that need near keys, estimates that tell, an answer of picture and question."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.attribution import influence
from crosslens.analyses.attribution._influence import BINS, ENTRIES
from crosslens.analyses.attribution._interaction import IMAGE, NOISE, NUMBERS
from crosslens.data.example import ROLES

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, HEADS = 40, 20, 8, 4


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        near=-1.0 if wrong == "influence is near" else 1.0,
        told=wrong != "first order is enough",
        scale=3.0 if wrong == "first order is to scale" else 1.0,
        together=-1.0 if wrong == "picture and question together" else 1.0,
    )


def tables_of(
    *,
    near: float = 1.0,
    shuffled: float = 0.0,
    told: bool = True,
    together: float = 1.0,
    wrong: float = 0.0,
    pictures: bool = True,
    scale: float = 1.0,
    reached: int = 6,
) -> dict[str, pd.DataFrame]:
    """near, shuffled: how much more near keys do than far ones (ln), with own slopes and those of other positions.
    told: whether estimates follow what masking does; scale: how much larger it is than they are. together, wrong:
    interaction of the answer and of a wrong one, where there are pictures. reached: bins of distance in the prompts.
    """
    rng = np.random.default_rng(0)
    bins = np.arange(BINS + 1)
    entries = np.tile(np.where((bins < reached) | (bins == BINS), 10.0, 0.0), (N, 1))

    def falling(by: float, *shape: int) -> np.ndarray:
        of_bins = np.where(bins == BINS, 20.0, np.exp(np.where(bins < 2, by, 0.0)))  # the first token, to neither
        each = of_bins * (1 + 0.2 * rng.random((N, LAYERS, *shape, BINS + 1)))
        return each * entries.reshape(N, *[1] * (1 + len(shape)), BINS + 1)

    exact = rng.normal(size=(N, LAYERS, len(ENTRIES)))
    exact[:, 1] = np.nan  # a layer in which nothing was masked
    blind = -exact + 0.1 * rng.normal(size=exact.shape)
    values: dict[str, Any] = {
        "influence|distance": falling(near, HEADS),
        "influence|distance|shuffled": falling(shuffled) * HEADS,
        "influence|entries": entries,
        "influence|pairs": rng.random((N, LAYERS, len(ROLES), len(ROLES))),
        "influence|pairs|shuffled": rng.random((N, LAYERS, len(ROLES), len(ROLES))),
        "calibration|exact": exact,
        "influence|at subject": rng.random((N, LAYERS)),
        "influence|at subject|shuffled": rng.random((N, LAYERS)),
        "calibration|estimate": (exact + 0.1 * rng.normal(size=exact.shape)) / scale if told else blind,
        "calibration|attention": np.where(np.isnan(exact), np.nan, 0.05),
    }
    means = {"answer": together, "wrong": wrong, "top": 0.0, "variance": 3.0}
    for without in (IMAGE, NOISE) if pictures else ():
        noise = {name: 0.2 * rng.normal(size=(N, 1)) for name in NUMBERS}
        values |= {f"interaction|{name}|{without}": means[name] + noise[name] for name in NUMBERS}
    return tables_from(influence, rows_of(values, GROUPS))
