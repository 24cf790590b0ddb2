"""The numbers of the claims about routes, each with its margin over its controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.controls import HEADS, OTHER_WRITER
from ..common.frames import mean_of_present, of_heads
from ..common.selection import Head, at, at_random
from ..common.stats import MIN_GROUPS, chosen_on, quotient
from ..common.tested import nothing, number
from ._route_knockout import agreement
from ._route_walk import ADDED

Array = NDArray[np.floating]
ATTENTION = "its share of attention"
NULL_HEADS = "heads that the control's routes choose"
HALVES = f"fewer than {2 * MIN_GROUPS} groups: heads cannot be chosen on one half and measured on the other"


def tested(rows: Rows, how: How) -> pd.DataFrame:
    parts = [*_few(rows), *_sink(rows), *agreement(rows), *_of_chosen(rows, how.options.share)]
    return pd.concat(parts, ignore_index=True)


def _total(sums: Array, name: str) -> Array:
    return sums[..., ADDED.index(name)].sum(1)


def _few(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "few edges", rows.examples["group"]
    own, null = (quotient(_total(s, "edges"), _total(s, "possible")) for s in (rows["sums"], _with_pairs(rows)))
    if np.isnan(own).all():
        return [nothing(claim, "no layer could connect two tokens")]
    return [
        number(claim, own, groups, "share of pairs"),
        number(claim, own - null, groups, "share of pairs", than=OTHER_WRITER),
    ]


def _with_pairs(rows: Rows) -> Array:
    """The control's sums with the pairs that the model could connect: a layer that its route never reaches has them
    too.
    """
    sums, at_pairs = rows["sums|null"].copy(), ADDED.index("possible")
    sums[..., at_pairs] = np.maximum(sums[..., at_pairs], rows["sums"][..., at_pairs])
    return sums


def _sink(rows: Rows) -> list[pd.DataFrame]:
    claim, groups, sums = "routes leave the sink", rows.examples["group"], rows["sums"]
    own = quotient(_total(sums, "from first"), _total(sums, "between"))
    paid = quotient(_total(sums, "attends first"), _total(sums, "attends between"))
    if np.isnan(own).all():
        return [nothing(claim, "no route keeps an edge between two tokens")]
    return [
        number(claim, own, groups, "share of importance"),
        number(claim, own - paid, groups, "share of importance", than=ATTENTION),
    ]


def _of_chosen(rows: Rows, share: float) -> list[pd.DataFrame]:
    """Heads chosen by importance on one half of the groups, measured on the other."""
    groups, names = rows.examples["group"], ("previous-token heads", "routes find causal heads")
    if groups.nunique() < 2 * MIN_GROUPS:
        return [nothing(name, HALVES) for name in names]
    own, half = _chosen(rows, "", share)
    null, _ = _chosen(rows, "|null", share)
    return [*_previous(rows, half, own), *_causal(rows, half, own, null)]


def _chosen(rows: Rows, suffix: str, share: float) -> tuple[list[Head], NDArray[np.bool_]]:
    """The heads with most importance, and the half of the groups that they are measured on."""
    kept = rows[f"sums{suffix}"][..., ADDED.index("rows")]
    importance = rows[f"importance{suffix}"] / np.maximum(kept, 1)[..., None]
    shape = importance.shape[1:]

    def choose(values: Array) -> NDArray[Any]:
        mean = mean_of_present(values, 0)
        count = max(1, round(share * int(np.isfinite(mean).sum())))
        return np.argsort(-np.nan_to_num(mean, nan=-np.inf).ravel(), kind="stable")[:count]

    places, second = chosen_on(importance, rows.examples["group"], choose)
    return [(int(i) // shape[1], int(i) % shape[1]) for i in places], second


def _previous(rows: Rows, half: NDArray[np.bool_], heads: Sequence[Head]) -> list[pd.DataFrame]:
    claim, unit = "previous-token heads", "share of attention"
    kept = rows["sums"][..., ADDED.index("rows")]
    before = (rows["previous"] / np.maximum(kept, 1)[..., None])[half]
    groups = rows.examples["group"][half]
    own, random = (mean_of_present(of(before, heads)) for of in (at, at_random))
    return [number(claim, own, groups, unit), number(claim, own - random, groups, unit, than=HEADS)]


def _causal(rows: Rows, half: NDArray[np.bool_], heads: Sequence[Head], null: Sequence[Head]) -> list[pd.DataFrame]:
    """Each prompt's share of all effects that lies in the chosen heads, over their share of all heads."""
    claim, unit = "routes find causal heads", "times an even share"
    if "effect" not in rows.values or np.isnan(rows["effect"][half]).all():
        return [nothing(claim, "no example has a twin of equal length and a wrong answer, or heads were not patched")]
    effect, groups = np.abs(rows["effect"][half]), rows.examples["group"][half]
    even = of_heads(effect).mean((1, 2))
    own, random, other = (
        quotient(values.mean(1), even) for values in (at(effect, heads), at_random(effect, heads), at(effect, null))
    )
    margins = {HEADS: own - random, NULL_HEADS: own - other}
    return [number(claim, own, groups, unit), *(number(claim, m, groups, unit, than=n) for n, m in margins.items())]
