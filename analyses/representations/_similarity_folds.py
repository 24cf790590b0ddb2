"""Likeness of layers with layers, and of kernels of states (CKA): about 20 folds of whole groups, left out in turn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import metrics
from ..common.controls import DRAWS, other_groups
from ..common.folds import folds_of
from ..common.frames import mean_of_present
from ..common.stats import quotient
from ._similarity_sets import Array, Pair, sums

LEAST = 4  # groups that unbiased CKA needs


# ---------------------------------------------------------------- layer by layer


class Crossed(NamedTuple):
    """By fold: Σ units of both sets, [folds, states, d]; Σ cosines of all states of one with all of the other, [folds,
    states, states], of the pairs of a group (`inside`) and of those that belong together; and how many of each.
    """

    x: Array
    y: Array
    inside: Array
    together: Array
    n_x: Array
    n_y: Array
    n_inside: Array
    n_together: Array

    def different(self, w: Array) -> tuple[Array, Array]:
        """Σ over pairs of different groups, [states, states], and how many; w: how often each fold counts."""
        top = np.tensordot(w, self.x, 1) @ np.tensordot(w, self.y, 1).T - np.tensordot(w, self.inside, 1)
        return top, (w @ self.n_x) * (w @ self.n_y) - w @ self.n_inside

    def same(self, w: Array) -> tuple[Array, Array]:
        return np.tensordot(w, self.together, 1), w @ self.n_together


def different(several: list[Crossed], weights: Array) -> Array:
    """[draws, states · states]: mean cosine of pairs of different groups, of all pairs of sets together."""
    return np.stack([_mean([one.different(w) for one in several]) for w in weights])


def content(several: list[Crossed], weights: Array) -> Array:
    """The same of pairs that belong together, minus that."""
    return np.stack([_mean([one.same(w) for one in several]) for w in weights]) - different(several, weights)


def _mean(parts: list[tuple[Array, Array]]) -> Array:
    return quotient(sum(top for top, _ in parts), sum(count for _, count in parts)).ravel()


def crossed(pair: Pair, groups: int) -> Crossed:
    fold = folds_of(np.arange(groups))
    count = int(fold.max()) + 1
    (x, many), (y, other) = sums(pair.x, groups), sums(pair.y, groups)
    inside = _by_fold(x, y, fold, count)
    together = _by_fold(pair.x.states, pair.y.states, fold[pair.x.groups], count) if pair.matched else inside
    n_x, n_y, n_inside = (np.bincount(fold, some, count).astype(float) for some in (many, other, many * other))
    of_x, of_y = (np.stack([some[fold == one].sum(0) for one in range(count)]) for some in (x, y))
    return Crossed(of_x, of_y, inside, together, n_x, n_y, n_inside, n_x if pair.matched else n_inside)


def _by_fold(x: Array, y: Array, fold: NDArray, count: int) -> Array:
    """Σ over the rows of each fold of the cosines of all states of x with all of y, [folds, states, states]."""
    return np.stack([np.einsum("nsd,ntd->st", x[fold == one], y[fold == one], optimize=True) for one in range(count)])


# ---------------------------------------------------------------- kernels


class Kernels(NamedTuple):
    """Mean states of groups that both sets have, state by state, in as few coordinates as there are groups."""

    x: list[Tensor]
    y: list[Tensor]
    fold: NDArray[np.int64]

    def alike(self, unbiased: bool, kept: NDArray[np.bool_], order: NDArray | None = None) -> Array:
        """`metrics.linear_cka` of some groups, [states]. order: which group's y stands beside each x."""
        own = torch.from_numpy(np.flatnonzero(kept))
        other = own if order is None else own[torch.from_numpy(order)]
        found = [metrics.linear_cka(x[own], y[other], unbiased=unbiased) for x, y in zip(self.x, self.y, strict=True)]
        return torch.stack(found).numpy()

    def permuted(self, unbiased: bool) -> Array:
        """Mean over draws of each group with another one's y, [states]."""
        every = np.ones(len(self.fold), bool)
        orders = [other_groups(len(self.fold), draw) for draw in range(DRAWS)]
        return np.mean([self.alike(unbiased, every, order) for order in orders], 0)


def kernels(pair: Pair, groups: int) -> Kernels | None:
    """Of WHOLE sets; None where a fold leaves fewer than LEAST groups that have both."""
    (x, many), (y, other) = sums(pair.x, groups), sums(pair.y, groups)
    there = (many > 0) & (other > 0)
    fold = folds_of(np.arange(groups))[there]
    if len(fold) - np.bincount(fold).max(initial=0) < LEAST:
        return None
    of_x, of_y = (some[there] / count[there][:, None, None] for some, count in ((x, many), (y, other)))
    return Kernels(_reduced(of_x), _reduced(of_y), fold)


def _reduced(states: Array) -> list[Tensor]:
    """Each state's [groups, d] as [groups, at most groups] of the same inner products."""
    whole = torch.from_numpy(states).transpose(0, 1)
    return [one if one.shape[1] <= len(one) else torch.linalg.qr(one.mT).R.mT for one in whole]


def mean_cka(several: list[Kernels], unbiased: bool, weights: Array) -> Array:
    """[draws, states]: the mean over pairs of sets, of the folds that count."""
    kept = [[weight[one.fold] > 0 for one in several] for weight in weights]
    rows = [[one.alike(unbiased, mine) for one, mine in zip(several, some, strict=True)] for some in kept]
    return mean_of_present(np.array(rows), axis=1)
