"""Half explanation: how far attention agrees with saliency by occlusion, for heads, layers and the mean of all.

Correlations run over what an example can lose: its words and blocks of its picture, with the first token or without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from ...probes.runs.results import Rows
from .. import metrics
from ..common.agreement import rank_correlations
from ..common.controls import DRAWS, permutations
from ._rows import ATTENTION, BLOCK, WEIGHTED, WORD

OTHER = "another example's saliency"
RECENCY = "distance alone"
SHUFFLED = "the saliency permuted"
WITH, WITHOUT = "with the first token", "without the first token"
FIRST = (WITHOUT, WITH)
PEARSON, SPEARMAN = "Pearson", "Spearman"
PARTNERS = 5  # other examples, of other groups
Found = dict[str, np.ndarray]  # by control, "" itself


class Agreement(NamedTuple):
    """By control: r of each head's map [n, layer, h], of each layer's mean [n, layer], of the mean of all [n]; and the
    mean over all heads of their own r [n].
    """

    heads: Found
    layers: Found
    mean: Found
    each: Found


def agreement(rows: Rows, look: str, correlation: str, first: str) -> Agreement:
    """Of one kind of map: ATTENTION or WEIGHTED."""
    made: list[Mapping[str, tuple[np.ndarray, ...]]] = [
        _of_example(rows, i, look, correlation, first) for i in range(len(rows.examples))
    ]
    names = dict.fromkeys(name for one in made for name in one)
    lacking = tuple(np.full(part.shape, np.nan) for part in made[0][""])

    def of(part: int) -> Found:
        return {name: np.stack([one.get(name, lacking)[part] for one in made]) for name in names}

    return Agreement(*map(of, range(len(lacking))))


def _of_example(rows: Rows, i: int, look: str, correlation: str, first: str) -> dict[str, tuple[np.ndarray, ...]]:
    """By control r of heads, layers, the mean map, and the mean of heads' r."""
    asked = _asked(rows, i, first)
    saliency = rows["saliency"][i][: len(asked)][asked]
    maps = rows[f"look/{look}"][i][..., : len(asked)][..., asked]
    found = {"": _levels(maps, saliency, correlation)}
    others = [_levels(maps, other[asked], correlation) for other in _partners(rows, i)]
    if others:
        found[OTHER] = tuple(_mean(np.stack(part)) for part in zip(*others, strict=True))
    distance = np.broadcast_to(_places(rows, i)[: len(asked)][asked], maps.shape)
    found[RECENCY] = _levels(distance, saliency, correlation)
    orders = permutations(len(saliency), [f"{rows.examples['id'][i]} {draw}" for draw in range(DRAWS)]).numpy()
    found[SHUFFLED] = tuple(_mean(part) for part in _levels(maps, saliency[orders], correlation))
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the first axis, of what is there; NaN of nothing."""
    there = ~np.isnan(values)
    return np.where(there.any(0), np.nansum(values, 0), np.nan) / np.maximum(there.sum(0), 1)


def _asked(rows: Rows, i: int, first: str) -> np.ndarray:
    """Which of the first token and the features count, Bool[1 + f]; the first token once, where it is a feature too."""
    there = ~np.isnan(rows["kind"][i])
    own = rows["owner"][i][0]
    asked = np.concatenate([[own < 0], np.ones(int(there.sum()), bool)])
    if first == WITHOUT:
        asked[0] = False
        if own >= 0:
            asked[1 + int(own)] = False
    return asked


def _levels(maps: np.ndarray, saliency: np.ndarray, correlation: str) -> tuple[np.ndarray, ...]:
    """maps [layer, h, n] beside saliency [(draw,) n]; draws in front of what is found. Layers without heads are left
    out of means.
    """
    own = correlated(maps, saliency[..., None, None, :], correlation)
    there = ~np.isnan(maps).all((1, 2))
    layers = np.full(own.shape[:-1], np.nan)
    layers[..., there] = correlated(maps[there].mean(1), saliency[..., None, :], correlation)
    each = _mean(np.moveaxis(own.reshape(*own.shape[:-2], -1), -1, 0))
    whole = maps[there].mean((0, 1)) if there.any() else np.full(maps.shape[-1], np.nan)
    return own, layers, correlated(whole, saliency, correlation), each


def correlated(maps: np.ndarray, saliency: np.ndarray, correlation: str) -> np.ndarray:
    """r along the last axis, over the cells of which the saliency is known; NaN for fewer than 3."""
    x, y = np.broadcast_arrays(maps, saliency)
    known = ~np.isnan(saliency).reshape(-1, saliency.shape[-1]).any(0)
    if known.sum() < 3:
        return np.full(x.shape[:-1], np.nan)
    x, y = x[..., known], y[..., known]
    if correlation == SPEARMAN:
        return rank_correlations(x, y)
    return metrics.correlation(*(torch.from_numpy(np.array(z, float)) for z in (x, y))).numpy()


def _partners(rows: Rows, i: int) -> Iterator[np.ndarray]:
    """The saliency of the next examples of other groups, laid over this one's [1 + f]: words counted from the last."""
    groups = rows.examples["group"].to_numpy()
    order = np.roll(np.arange(len(groups)), -i - 1)
    for other in order[groups[order] != groups[i]][:PARTNERS]:
        yield _laid(rows, int(other), i)


def _laid(rows: Rows, other: int, i: int) -> np.ndarray:
    """The other's first token and features in the places of mine; NaN where it has none."""
    theirs = rows["saliency"][other]
    mine_words, mine_blocks = (int((rows["kind"][i] == kind).sum()) for kind in (WORD, BLOCK))
    their_words, their_blocks = (int((rows["kind"][other] == kind).sum()) for kind in (WORD, BLOCK))
    laid = np.full(1 + mine_words + mine_blocks, np.nan)
    laid[0] = theirs[0]
    common = min(mine_words, their_words)
    laid[1 + mine_words - common : 1 + mine_words] = theirs[1 + their_words - common : 1 + their_words]
    if mine_blocks == their_blocks:
        laid[1 + mine_words :] = theirs[1 + their_words : 1 + their_words + their_blocks]
    return laid


def _places(rows: Rows, i: int) -> np.ndarray:
    """Where the first token and each feature stand in the prompt, on average, [1 + f]."""
    owner, count = rows["owner"][i], int((~np.isnan(rows["kind"][i])).sum())
    return np.array([0.0, *(np.flatnonzero(owner == feature).mean() for feature in range(count))])


__all__ = ["ATTENTION", "WEIGHTED", "Agreement", "agreement", "correlated"]
