"""How well cheap estimates of effects agree with exact ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from ...probes.intervene.attribution import attribution_sweeps
from ...probes.intervene.patching import patch_sweep
from .. import metrics
from . import stats
from .contrast import PARTS, Contrast

ESTIMATES = {"1 step": 1, "5 steps": 5}  # attribution patching, integrated gradients
ONE, FIVE = ESTIMATES
RECALL = (0.02, 0.05, 0.1)
RANKS = "Spearman"
MEASURES = {RANKS: "rank correlation"} | {f"recall of the top {share:.0%}": "share of heads" for share in RECALL}
DRAWS = 200
COLUMNS = ("value", "lower", "upper")


def exact_and_estimates(
    subject: Any, found: Contrast, positions: Bool[Tensor, "b p"], exact: str, estimates: Mapping[str, int] = ESTIMATES
) -> dict[str, Tensor]:
    """Rows "<part>|<exact>" and "<part>|<estimate>": what patching a head [b, layer, head] or an MLP [b, layer] from
    the twin at `positions` does, and what each estimate (name -> steps) says that it does.
    """
    both = {"measure": found.measure, "positions": positions}
    rows = {
        f"{part}|{exact}": patch_sweep(subject, found.base, found.donor, site, **both).effects
        for part, site in PARTS.items()
    }
    for name, steps in estimates.items():
        sweeps = attribution_sweeps(subject, found.base, found.donor, PARTS.values(), **both, steps=steps)
        rows |= {f"{part}|{name}": sweeps[site].effects for part, site in PARTS.items()}
    return rows


def agreement_table(rows: Any, exact: str) -> pd.DataFrame | None:
    """Spearman correlation and top-k recall of each estimate, with intervals by groups: part estimate measure value …;
    None without estimates.

    rows: those of an analysis, with "head|<exact>" and "head|<estimate>" ([n, layer, head]) and the same for "mlp".
    """
    frames = []
    for part in ("head", "mlp"):
        for estimate in (name for name in ESTIMATES if f"{part}|{name}" in rows.values):
            maps, counts = _maps(rows, f"{part}|{estimate}", f"{part}|{exact}")
            found = stats.bootstrap_statistic(*maps, lambda mean: _all_measures(*mean), n_boot=DRAWS)
            names = {"part": part, "estimate": estimate, "measure": list(MEASURES), "unit": list(MEASURES.values())}
            frames.append(pd.DataFrame(names | dict(zip(COLUMNS, found, strict=True)) | counts))
    return pd.concat(frames, ignore_index=True) if frames else None


def five_over_one(rows: Any, exact: str) -> dict[str, Any] | None:
    """The row of Spearman with 5 steps minus that with 1, over heads; None where no gradients were asked for."""
    one, five = f"head|{ONE}", f"head|{FIVE}"
    if one not in rows.values:
        return None
    maps, counts = _maps(rows, five, one, f"head|{exact}")
    found = stats.bootstrap_statistic(*maps, lambda m: np.array(spearman(m[0], m[2]) - spearman(m[1], m[2])))
    return dict(zip(COLUMNS, map(float, found), strict=True)) | counts | {"unit": MEASURES[RANKS]}


def _maps(rows: Any, *names: str) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, int]]:
    """(maps [n, names, cells], groups [n]) of the examples that have all of them; and their counts.

    Cells that no example has are those of layers without heads.
    """
    maps = np.stack([rows[name].reshape(len(rows.examples), -1) for name in names], 1)
    missing = np.isnan(maps).all((0, 1))
    maps = np.ascontiguousarray(maps[:, :, ~missing]) if missing.any() else maps
    there = ~np.isnan(maps).any((1, 2))
    groups = rows.examples["group"].to_numpy()[there]
    return (maps[there], groups), {"n": len(groups), "n_groups": len(np.unique(groups))}


def _all_measures(estimate: np.ndarray, exact: np.ndarray) -> np.ndarray:
    return np.array([spearman(estimate, exact), *(recall(estimate, exact, share) for share in RECALL)])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation over the cells that both have, −1…1; NaN where a map is constant."""
    there = ~(np.isnan(a) | np.isnan(b))
    a, b = a[there], b[there]
    found: Any = spearmanr(a, b) if len(a) and np.ptp(a) > 0 and np.ptp(b) > 0 else None  # its fields are not typed
    return np.nan if found is None else float(found.statistic)


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis, −1…1; NaN where one is constant or has a NaN."""
    return metrics.correlation(*(torch.from_numpy(rankdata(x, axis=-1)) for x in (a, b))).numpy()


def recall(estimate: np.ndarray, exact: np.ndarray, share: float) -> float:
    """Which share of the exact top cells is also among the estimate's, by |effect|, 0…1."""
    count = max(1, round(share * len(exact)))
    top = [set(np.argsort(-np.abs(cells), kind="stable")[:count].tolist()) for cells in (estimate, exact)]
    return len(top[0] & top[1]) / count
