"""How well cheap estimates of effects agree with exact ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

ESTIMATES = {"1 step": 1, "5 steps": 5}  # attribution patching, integrated gradients
RECALL = (0.02, 0.05, 0.1)


def agreement_table(rows: Any, exact: str, draws: int = 200) -> pd.DataFrame:
    """Spearman correlation and top-k recall of each estimate, with group bootstrap: part estimate measure value …

    rows: those of an analysis, with "head|<exact>" and "head|<estimate>" ([n, layer, head]) and the same for "mlp".
    """
    groups, found = rows.examples["group"].to_numpy(), []
    for part in ("head", "mlp"):
        for estimate in (name for name in ESTIMATES if f"{part}|{name}" in rows.values):
            guess, truth = (rows[f"{part}|{name}"].reshape(len(groups), -1) for name in (estimate, exact))
            for name, (of, unit) in measures().items():
                value, lower, upper = bootstrap_maps(of, guess, truth, groups, draws)
                row = {"part": part, "estimate": estimate, "measure": name, "unit": unit, "value": value}
                counts = {"n": len(groups), "n_groups": len(np.unique(groups))}
                found.append(row | {"lower": lower, "upper": upper} | counts)
    return pd.DataFrame(found)


def measures() -> dict[str, tuple[Callable[[np.ndarray, np.ndarray], float], str]]:
    """Name -> (function of two maps [cells]: estimate, exact; its unit)."""
    found: dict[str, Any] = {"Spearman": (spearman, "rank correlation")}
    for share in RECALL:
        found[f"recall of the top {share:.0%}"] = (lambda a, b, share=share: recall(a, b, share), "share")
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation over cells, −1…1; NaN where a map is constant."""
    found: Any = spearmanr(a, b)  # its fields are not typed
    return float(found.statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else np.nan


def recall(estimate: np.ndarray, exact: np.ndarray, share: float) -> float:
    """Which share of the exact top cells is also among the estimate's, by |effect|, 0…1."""
    count = max(1, round(share * len(exact)))
    top = [set(np.argsort(-np.abs(cells), kind="stable")[:count].tolist()) for cells in (estimate, exact)]
    return len(top[0] & top[1]) / count


def bootstrap_maps(
    of: Callable[[np.ndarray, np.ndarray], float],
    a: np.ndarray,
    b: np.ndarray,
    groups: np.ndarray,
    draws: int,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A function of two mean maps ([n, cells] each) with its interval: groups are drawn, both maps averaged anew."""
    codes = np.unique(groups, return_inverse=True)[1]
    value, n_groups = of(a.mean(0), b.mean(0)), int(codes.max()) + 1
    if n_groups < 2:
        return value, np.nan, np.nan
    drawn = []
    for counts in np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws):
        weights = counts[codes] / counts[codes].sum()
        drawn.append(of(weights @ a, weights @ b))
    if np.isnan(drawn).all():
        return value, np.nan, np.nan
    lower, upper = np.nanpercentile(drawn, [2.5, 97.5])
    return value, float(lower), float(upper)
