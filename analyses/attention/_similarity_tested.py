"""The numbers of layer_similarity's claims, each with its margins over controls."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.agreement import rank_correlations
from ..common.controls import RANDOM_ENTRIES, SHUFFLED_PROMPT, UNIFORM
from ..common.tested import nothing, number
from ._likeness import KINDS, THRESHOLDS
from ._swapped import BELOW

FLOOR = "shared with uniform attention"
APART = "layers half a model apart"
NO_SWAPS = "no pattern was replaced (--layer_similarity.swaps)"
FEW = 4  # layers, below which a rank correlation says nothing


def of_layers(pairs: np.ndarray) -> np.ndarray:
    """The layers that have attention, of rows [n, layer, layer]."""
    return np.flatnonzero(~np.isnan(pairs).all((0, 2)))


def tested(rows: Rows, how: How) -> pd.DataFrame:
    return pd.concat([*_neighbours(rows), *_reach(rows), *_swaps(rows)], ignore_index=True)


def _neighbours(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "neighbours attend alike", rows.examples["group"]
    over = rows["alike|sink twin"] - rows["floor|sink twin"]
    layers = of_layers(over)
    if len(layers) < FEW:
        return [nothing(claim, f"fewer than {FEW} layers have attention")]
    near, far = (_diagonal(over[:, layers][:, :, layers], by) for by in (1, len(layers) // 2))
    unit = "cosine over uniform"
    return [number(claim, near, groups, unit), number(claim, near - far, groups, unit, than=APART)]


def _diagonal(pairs: np.ndarray, by: int) -> np.ndarray:
    return np.nanmean(np.diagonal(pairs, by, 1, 2), 1)


def _reach(rows: Rows) -> list[pd.DataFrame]:
    claim, groups, at = "few hops reach all", rows.examples["group"], THRESHOLDS.index(0.1)
    layers = of_layers(rows["alike|attention"])
    half = layers[max(0, len(layers) // 2 - 1)]
    own, random = rows["reached"][:, at, half], rows["reached, random"][:, at, half]
    unit = "share of positions"
    return [
        number(claim, own, groups, unit),
        number(claim, own - random, groups, unit, than=RANDOM_ENTRIES),
    ]


def _swaps(rows: Rows) -> list[pd.DataFrame]:
    names = ("another layer's pattern will do", "likeness predicts the cost", "weak entries do little")
    if "clean" not in rows.values:
        return [nothing(name, NO_SWAPS) for name in names]
    groups, unit = rows.examples["group"], "nats a token"
    layers = ~np.isnan(rows[f"cost|{BELOW}"]).all(0)
    if not layers.any():
        return [nothing(name, "no two layers have patterns of one shape") for name in names]
    cost = {swap: rows[f"cost|{swap}"][:, layers] for swap in (BELOW, UNIFORM, SHUFFLED_PROMPT)}
    means = {swap: values.mean(1) for swap, values in cost.items()}  # NaN where a layer cannot be swapped so
    removed = rows["removed"]
    found = [number(names[0], means[BELOW], groups, unit)]
    for swap in (UNIFORM, SHUFFLED_PROMPT):
        if not np.isnan(means[swap]).all():
            found.append(number(names[0], means[BELOW] - means[swap], groups, unit, than=swap))
    found += [
        number(names[2], removed[:, 0], groups, unit),
        number(names[2], removed[:, 0] - removed[:, 1], groups, unit, than=RANDOM_ENTRIES),
    ]
    return [*found, *_predicted(rows, names[1], cost[BELOW], np.flatnonzero(layers))]


def _predicted(rows: Rows, claim: str, cost: np.ndarray, layers: np.ndarray) -> list[pd.DataFrame]:
    """Of each example the rank correlation over layers of likeness and cost."""
    attending = of_layers(rows["alike|attention"]).tolist()
    pairs = [(layer, attending[attending.index(layer) - 1]) for layer in layers]
    if len(pairs) < FEW:
        return [nothing(claim, f"fewer than {FEW} layers can take the pattern of the one below")]
    plain, twin = (
        rank_correlations(np.stack([rows[f"alike|{kind}"][:, a, b] for a, b in pairs], 1), cost) for kind in KINDS
    )
    groups, unit = rows.examples["group"], "rank correlation"
    return [number(claim, twin, groups, unit), number(claim, twin - plain, groups, unit, than="the cosine as it is")]
