"""Sums over some examples of what routers chose: loads, shares never active, entropies, the busiest experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...probes.runs.results import Rows
from .. import metrics
from ..common.labels import label_column
from ..common.stats import quotient, split_half

Array = NDArray[Any]
ORDERS = 10  # in which texts are added


class Sums:
    """The rows of the layers that have a router, ready to be weighted by example.

    layers Int[l]; chosen, gates [n, l, expert]; entropy [n, l]; tokens [n]; k: experts chosen for a token; labels,
    label Int[n] (−1: none); groups [n]; first Bool[n]: the half of the groups that experts are compared from.
    """

    def __init__(self, rows: Rows, learned: Any, by: str) -> None:
        self.layers = np.flatnonzero(~np.isnan(rows["entropy"]).all(0))
        self.chosen, self.gates, self.entropy = (
            rows[name][:, self.layers].astype(float) for name in ("chosen", "gates", "entropy")
        )
        self.tokens, self.k = rows["tokens"].astype(float), learned.k
        self.groups = rows.examples["group"].to_numpy()
        self.labels = list(learned.labels)
        own = label_column(rows, by)
        self.label = np.array([self.labels.index(one) if one in self.labels else -1 for one in own])
        several = len(np.unique(self.groups)) > 1
        self.first = split_half(self.groups)[0] if several else np.zeros(len(self.groups), bool)

    @property
    def n_experts(self) -> int:
        return self.chosen.shape[2]

    def never(self, weights: Array) -> float:
        """Share of all experts that no token of these texts goes to."""
        return float((self.chosen[weights > 0].sum(0) == 0).mean())

    def never_alone(self, weights: Array) -> float:
        """The same of one text alone, mean over these texts."""
        return float((self.chosen[weights > 0] == 0).mean())

    def never_by_texts(self, weights: Array, sizes: list[int]) -> tuple[Array, Array]:
        """Share never active after so many texts, and their tokens; means over ORDERS of adding texts, both [size]."""
        active, shares, tokens = self.chosen.reshape(len(weights), -1) > 0, [], []
        for draw in range(ORDERS):
            order = np.random.default_rng(draw).permutation(len(weights))
            order = order[weights[order] > 0]
            mine = active[order]
            first = np.where(mine.any(0), mine.argmax(0), len(weights))  # the text that is the first to go there
            shares.append([(first >= size).mean() for size in sizes])
            tokens.append([self.tokens[order[:size]].sum() for size in sizes])
        return np.mean(shares, 0), np.mean(tokens, 0)

    def spread(self, weights: Array) -> Array:
        """[layer, 3]: entropy of a token's gates, of the mean gates, and their difference, in shares of ln experts."""
        whole = weights @ self.tokens
        each = weights @ self.entropy / whole
        mean = torch.from_numpy(np.tensordot(weights, self.gates, 1) / whole)
        of_mean = metrics.row_entropy(mean).numpy()
        return np.stack([each, of_mean, of_mean - each], -1) / np.log(self.n_experts)

    def load(self, weights: Array, label: Array) -> Array:
        """[label, layer, expert]: share of a label's tokens for which an expert is chosen."""
        member = (np.arange(len(self.labels))[:, None] == label) * weights
        sums = member @ self.chosen.reshape(len(weights), -1)
        return quotient(sums, (member @ self.tokens)[:, None]).reshape(len(member), *self.chosen.shape[1:])

    def busiest(self, weights: Array, label: Array) -> Array:
        """Bool[label, layer, expert]: as many experts of each layer as a token has, those of the largest load."""
        load = np.nan_to_num(self.load(weights, label))
        rank = np.argsort(np.argsort(-load, axis=-1, kind="stable"), axis=-1, kind="stable")
        return rank < self.k

    def shared(self, weights: Array, label: Array | None = None) -> Array:
        """[label, other]: Jaccard of a label's busiest experts in one half of the groups and the other's in the other
        half, over all layers; NaN where a label has no text in a half.
        """
        label = self.label if label is None else label
        halves = [np.where(half, weights, 0.0) for half in (self.first, ~self.first)]
        one, two = (self.busiest(half, label).reshape(len(self.labels), -1).astype(float) for half in halves)
        common = one @ two.T
        found = common / (one.sum(1)[:, None] + two.sum(1) - common)
        lacking = [[not (half[label == i] > 0).any() for i in range(len(self.labels))] for half in halves]
        found[np.array(lacking[0])], found[:, np.array(lacking[1])] = np.nan, np.nan
        return found
