"""The numbers of the claims about weights. Of weights alone the layers are the groups: each stands for itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.frames import mean_of_present
from ..common.tested import nothing, number

Array = NDArray[np.floating]
PERMUTED = "weights with their entries permuted"
OTHER_PAIRS, GAUSSIAN = "the keys' pairs in another order", "Gaussian keys of the same covariance"
RANDOM = "random directions"


def tested(rows: Rows, how: How) -> pd.DataFrame:
    options = how.options
    parts = [*_components(rows, options.draws), *_symmetric(rows), *_pairs(rows), *_crowded(rows)]
    return pd.concat([*parts, *_chosen(rows, options.hull)], ignore_index=True)


def _of_layers(claim: str, values: Array, unit: str, than: str = "") -> pd.DataFrame:
    """One row: the mean over heads [layer, h], layers as groups."""
    layer = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    there = ~np.isnan(values)
    return number(claim, values[there], layer[there], unit, than=than)


def _components(rows: Rows, draws: int) -> list[pd.DataFrame]:
    claim, unit = "components stand out", "share of heads"
    if "K|part" not in rows.weights:
        return [nothing(claim, "weights alone give no OV or no QK circuits in this family")]
    if np.isnan(rows.weights["K|part"]).all():
        return [nothing(claim, "no head reads an earlier layer's: one layer alone attends, or has such circuits")]
    bar = np.nanmax(rows.weights["K|part|permuted 0"])
    own, *others = (
        _above(rows.weights[name], bar) for name in ("K|part", *(f"K|part|permuted {draw}" for draw in range(1, draws)))
    )
    return [_of_layers(claim, own, unit), _of_layers(claim, own - np.mean(others, 0), unit, PERMUTED)]


def _above(part: Array, bar: float) -> Array:
    """[layer, h] of receivers: 1 where the strongest component that they read lies above the bar, NaN without any."""
    strongest = np.nan_to_num(part, nan=-np.inf).max((0, 1))
    return np.where(np.isinf(strongest), np.nan, strongest > bar)


def _symmetric(rows: Rows) -> list[pd.DataFrame]:
    claim, unit = "symmetric scores", "share of the squared norm"
    own, mixed = (rows.weights[f"heads|QK symmetric share{suffix}"] for suffix in ("", "|permuted 0"))
    if np.isnan(own).all():
        return [nothing(claim, "queries or keys are normed, or not found, in this family")]
    return [_of_layers(claim, own, unit), _of_layers(claim, own - mixed, unit, PERMUTED)]


def most_used(use: Array) -> Array:
    """[n, layer, kv]: the share of the use that the most used quarter of the pairs holds."""
    quarter = max(1, use.shape[-1] // 4)
    return np.sort(use, -1)[..., -quarter:].sum(-1) / use.sum(-1)


def _pairs(rows: Rows) -> list[pd.DataFrame]:
    claim, unit, groups = "few rotary pairs", "share of the use", rows.examples["group"]
    if np.isnan(rows["use"]).all():
        return [nothing(claim, "no rotation that turns channel i with i + d/2 was seen")]
    own, mixed = (mean_of_present(most_used(rows[name]).reshape(len(groups), -1)) for name in ("use", "use|permuted"))
    return [number(claim, own, groups, unit), number(claim, own - mixed, groups, unit, than=OTHER_PAIRS)]


def _crowded(rows: Rows) -> list[pd.DataFrame]:
    """Over what random directions have, which is 1 / d_head."""
    claim, unit, groups = "keys interfere", "times that of random directions", rows.examples["group"]
    values = mean_of_present(rows["interference"][..., 1].reshape(len(groups), -1)) * rows["use"].shape[-1] * 2
    if np.isnan(values).all():
        return [nothing(claim, "no text has two keys")]
    return [number(claim, values, groups, unit), number(claim, values - 1, groups, unit, than=RANDOM)]


def _chosen(rows: Rows, asked: int) -> list[pd.DataFrame]:
    claim, groups = "keys can be chosen", rows.examples["group"]
    own, twins = (mean_of_present(rows["hull"][..., at].reshape(len(groups), -1)) for at in range(2))
    if np.isnan(own).all():
        short = "every text has fewer than d_head + 2 keys: none can lie inside the hull of the others"
        return [nothing(claim, short if asked else "no layer was asked (--weights.hull)")]
    beside = number(claim, own - twins, groups, "share", than=GAUSSIAN)
    return [
        number(claim, own, groups, "share"),
        beside,
    ]  # of keys; unit whose exact bound is known where none is inside
