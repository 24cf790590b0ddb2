"""Planted weights and keys: heads that read single components, symmetric scores, few pairs, crowded keys; or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.weights import weights
from crosslens.analyses.weights._circuits import OF_HEADS
from crosslens.analyses.weights._composed import KINDS, READ
from crosslens.analyses.weights._distances import DISTANCES
from crosslens.analyses.weights._matrices import MATRICES, OF_MATRICES
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from

LAYERS, HEADS, KV, PAIRS, N = 8, 4, 2, 8, 40
FAILING: dict[str, dict[str, Any]] = {
    "components stand out": {"composed": False},
    "symmetric scores": {"symmetric": 0.45},
    "few rotary pairs": {"pairs": PAIRS},
    "keys interfere": {"crowded": 1.2},
    "keys can be chosen": {"inside": 0.3},
}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of(**({} if holds else FAILING[name]))


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(weights, rows(**planted))


def rows(
    *,
    composed: bool = True,
    circuits: bool = True,
    symmetric: float = 0.6,
    pairs: int = 3,
    rotary: bool = True,
    crowded: float = 3.0,
    inside: float = 0.0,
    keys: bool = True,
    one_layer: bool = False,
) -> Rows:
    """composed: whether heads read more than those of permuted weights. pairs: as many share what is used. crowded: the
    interference, times that of random directions. inside: the share of keys that no query ranks first.
    one_layer: whether one alone attends.
    """
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    later = np.arange(LAYERS)[:, None] < np.arange(LAYERS)
    for suffix in ("", "|permuted 0", "|permuted 1"):
        part = 0.1 * (1 + 0.1 * rng.random((LAYERS, HEADS, LAYERS, HEADS)))
        if composed and not suffix:
            part = part * np.where(rng.random((LAYERS, HEADS)) < 0.85, 5, 1)  # most readers
        part = np.where(later[:, None, :, None] & (not one_layer), part, np.nan)
        if circuits:
            found |= {f"{kind}|{name}{suffix}": part for kind in KINDS for name in READ}
        share = symmetric if not suffix else 0.5
        known = share if circuits else np.nan
        found |= {f"heads|{name}{suffix}": known + 0.01 * rng.random((LAYERS, HEADS)) for name in OF_HEADS}
        found |= {f"matrices|{name}{suffix}": 1 + rng.random((LAYERS, len(MATRICES))) for name in OF_MATRICES}
    noise = 0.01 * rng.random((N, LAYERS, KV))
    use = np.zeros((N, LAYERS, KV, PAIRS))
    use[..., :pairs] = 1 + rng.random((N, LAYERS, KV, pairs))
    others = np.roll(use, 3, -1) + use if pairs < PAIRS else use
    values = {
        "use": use if rotary else use * np.nan,
        "use|permuted": others + 0.2 * (pairs < PAIRS),
        "interference": np.stack([noise + 5, noise + crowded], -1) / (2 * PAIRS),
        "hull": np.stack([noise * (inside > 0) + inside, noise + 0.2], -1),
    }
    for name in ("distances", "distances|permuted"):
        values[name] = rng.random((N, LAYERS, HEADS, DISTANCES)) * (1 if rotary else np.nan)
    if not keys:
        values["hull"] = values["hull"] * np.nan
        values["interference"] = values["interference"] * np.nan
    names = {"id": [f"e{i}" for i in range(N)], "group": [f"g{i}" for i in range(N)], "condition": "no BOS"}
    return Rows(pd.DataFrame(names), values, found)
