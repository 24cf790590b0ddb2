"""Heads that attend alike by distance: groups, and whether another half of the examples gives the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

SPLITS = 20
PERMUTED = "distances permuted within each head"
LEAST = 6  # heads


class Groups(NamedTuple):
    """labels [head]; plane [head, 2]: the two largest components of the standardised profiles."""

    labels: np.ndarray
    plane: np.ndarray


def groups_of_heads(profiles: np.ndarray, most: int) -> Groups | None:
    """profiles: [head, hops]. None of fewer than LEAST heads, or where all are alike."""
    scaled = _standardised(profiles)
    if len(scaled) < LEAST or scaled.shape[1] < 2:
        return None
    sizes = range(2, min(most, len(scaled) - 1) + 1)
    fits = [KMeans(k, n_init="auto", random_state=0).fit_predict(scaled) for k in sizes]
    best = max(fits, key=lambda labels: silhouette_score(scaled, labels) if len({*labels}) > 1 else -1.0)
    return Groups(best, PCA(2, random_state=0).fit_transform(scaled))


def _standardised(profiles: np.ndarray) -> np.ndarray:
    varying = profiles[:, profiles.std(0) > 1e-9]
    return (varying - varying.mean(0)) / varying.std(0)


def stability(hops: np.ndarray, groups: np.ndarray, most: int) -> pd.DataFrame | None:
    """Adjusted Rand index of the groups of heads found on two halves, mean and 95 % of SPLITS splits; 0 by chance.

    hops: [n, layer, head, hops]. The control's profiles are permuted, independently in each half.
    """
    names = np.unique(groups)
    if len(names) < 2 or groups_of_heads(hops.mean(0).reshape(-1, hops.shape[-1]), most) is None:
        return None
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"": [], PERMUTED: []}
    for _ in range(SPLITS):
        half = rng.permutation(len(names)) < len(names) // 2
        chosen = half[np.searchsorted(names, groups)]
        halves = [hops[part].mean(0).reshape(-1, hops.shape[-1]) for part in (chosen, ~chosen)]
        found[""].append(_agreement(halves, most))
        found[PERMUTED].append(_agreement([rng.permuted(half, axis=1) for half in halves], most))
    rows = [
        {"of": "groups of heads", "control": control, "value": np.mean(values), "unit": "adjusted Rand index"}
        | dict(zip(("lower", "upper"), np.quantile(values, (0.025, 0.975)), strict=True))
        for control, values in found.items()
    ]
    return pd.DataFrame(rows).assign(n=len(hops), n_groups=len(names))


def _agreement(halves: list[np.ndarray], most: int) -> float:
    first, second = (groups_of_heads(half, most) for half in halves)
    return float("nan") if first is None or second is None else float(adjusted_rand_score(first.labels, second.labels))
