"""Planted rows of redundancy: modules whose cost can be told, deep attention that is not needed, layers for vision."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.redundancy import redundancy
from crosslens.analyses.redundancy._importance import INSIDE, KINDS, SHARES
from crosslens.analyses.redundancy._skips import LEFT_OUT

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, HEADS, WIDTH = 40, 20, 8, 4, 6
SHUFFLED = np.array([3, 6, 0, 5, 2, 7, 1, 4])


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        told=-1.0 if wrong == "importance predicts loss" else 1.0,
        sinking=wrong != "deep attention is redundant",
        mlp=-0.2 if wrong == "attention before MLPs" else 0.8,
        deep=0.5 if wrong == "a third of the attention" else 0.06,
        least=1.5 if wrong == "the least important third" else 0.02,
        entropy=-1.0 if wrong == "entropy predicts loss" else 1.0,
        held=0.3 if wrong == "few dimensions of z" else 0.6,
        excess=-1.0 if wrong == "layers for vision" else 1.0,
    )


def tables_of(
    *,
    told: float = 1.0,
    null: bool = False,
    sinking: bool = True,
    mlp: float = 0.8,
    deep: float = 0.06,
    least: float = 0.02,
    entropy: float = 1.0,
    held: float = 0.6,
    excess: float = 1.0,
    alike: bool = False,
    attention: bool = True,
    pictures: bool = True,
) -> dict[str, pd.DataFrame]:
    """told: how 1 − cos goes with the cost; null: that of an orthogonal update as well. sinking: attention costs less
    in deep layers. deep, least: cost of a third of the attention in that order; mlp: of the least important MLPs.
    excess: what two layers cost more with the image, alike: all of them.
    """
    rng = np.random.default_rng(0)

    def noisy(values: np.ndarray, size: float = 0.01) -> np.ndarray:
        return values + size * rng.normal(size=(N, *values.shape))

    slope = np.linspace(1.0, 0.2, LAYERS) if sinking else np.linspace(0.2, 1.0, LAYERS)
    costs = {"block": slope + 0.6, "attention": slope, "MLP": 0.5 + 0.01 * SHUFFLED}
    turned = np.zeros((LAYERS, len(KINDS), 3))
    for k, kind in enumerate(KINDS):
        turned[:, k, 0] = 1 + told * costs[kind] / 2
        turned[:, k, 1] = turned[:, k, 0] if null else 1 + 0.1 * SHUFFLED
        turned[:, k, 2] = 1.0
    clean = noisy(np.array([3.0, 0.4]))
    values = {"turned": noisy(turned, 1e-4), "clean": clean}
    thirds = {"block": [1.0, 1.0, 1.0], "attention": [deep, least, 0.9], "MLP": [0.8, mlp, 1.0]}
    for kind in KINDS:
        values[f"skip|{kind}"] = clean[:, None] + noisy(_both(costs[kind]), 0.25)
        values[f"mean|{kind}"] = clean[:, None] + noisy(_both(costs[kind] / 2))
        curve = np.array(thirds[kind])[:, None] * np.array(LEFT_OUT) * 3
        values[f"curve|{kind}"] = clean[:, None, None] + noisy(_both(curve), 0.005)
    energy = np.minimum(np.array(SHARES) * held * 16 / 3, 1.0)
    values["energy"] = noisy(np.broadcast_to(energy, (LAYERS, len(INSIDE), len(SHARES))))
    values["head energy"] = 1 + rng.random((N, LAYERS, HEADS))
    features = rng.normal(size=(N, WIDTH))
    scales = np.exp(0.3 + 0.4 * (slope if entropy > 0 else 1.2 - slope))
    values |= {"features": features, "features|skip": features[:, None] * scales[:, None]}
    values["features|mean"] = values["features|skip"]
    more = np.full(LAYERS, excess if alike or excess < 0 else 0.0)
    more[:2] = excess
    values |= {"blind clean": clean + 1, "blind|block": values["skip|block"] + 1 - noisy(_both(more))}
    return tables_from(redundancy, rows_of(_with(values, attention, pictures), GROUPS))


def _both(cost: np.ndarray) -> np.ndarray:
    """Loss and top-1."""
    return np.stack([cost, -cost / 10], -1)


def _with(values: dict[str, np.ndarray], attention: bool, pictures: bool) -> dict[str, np.ndarray]:
    def there(name: str) -> bool:
        own = attention or not (name.endswith("|attention") or name.startswith("features|"))
        return own and (pictures or not name.startswith("blind"))

    return {name: rows for name, rows in values.items() if there(name)}
