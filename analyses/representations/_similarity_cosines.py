"""Cosines of all pairs of two sets, as sums by the groups of both: means over any groups follow without the pairs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np

from ..common.controls import DRAWS, other_groups, random_half
from ..common.stats import quotient
from ._similarity_sets import Array, Pair, Set, sums


class Cosines(NamedTuple):
    """Of pairs of a group of one set and a group of the other: Σ cosines [states, G, G], and how many [G, G]. Of pairs
    that belong together, by group: Σ [G, states], and how many [G].

    What a method says of weights [draws, G], how often each group counts, is [draws, states].
    """

    whole: Array
    count: Array
    together: Array
    n_together: Array

    def all_pairs(self, weights: Array) -> Array:
        """`metrics.pairwise_cosine` of the sets: those that belong together are among them."""
        return self._pairs(weights, inside=weights)

    def different(self, weights: Array) -> Array:
        """Pairs of different groups."""
        return self._pairs(weights, inside=np.zeros_like(weights))

    def _pairs(self, weights: Array, inside: Array) -> Array:
        """A group that is drawn twice is no other to itself: pairs within it count as often as `inside` says."""
        within = inside - weights**2
        own, count = np.diagonal(self.whole, axis1=1, axis2=2), self.count.diagonal()
        top = _both(self.whole, weights) + within @ own.T
        return quotient(top, _both(self.count[None], weights) + (within @ count)[:, None])

    def same(self, weights: Array) -> Array:
        """Pairs that belong together."""
        return quotient(weights @ self.together, (weights @ self.n_together)[:, None])

    def permuted(self, weights: Array) -> Array:
        """Each group with another one in the place of its partner; mean over draws."""
        groups = np.arange(len(self.count))
        top, bottom = 0.0, 0.0
        for draw in range(DRAWS):
            other = other_groups(len(groups), draw)
            top, bottom = top + self.whole[:, groups, other].T, bottom + self.count[groups, other]
        return quotient(weights @ top, (weights @ bottom)[:, None])

    def content(self, weights: Array) -> Array:
        """Same minus different: what pairs share beyond what any two share."""
        return self.same(weights) - self.different(weights)

    def permuted_content(self, weights: Array) -> Array:
        return self.permuted(weights) - self.different(weights)


def cosines(pairs: Iterable[Pair], groups: int) -> Cosines:
    """Of several pairs of sets together: numerators and counts add up."""
    return reduce(lambda a, b: Cosines(*(x + y for x, y in zip(a, b, strict=True))), (_of(p, groups) for p in pairs))


def _of(pair: Pair, groups: int) -> Cosines:
    (x, many), (y, other) = sums(pair.x, groups), sums(pair.y, groups)
    # states first, so that each is one matrix product
    whole, count = x.swapaxes(0, 1) @ y.transpose(1, 2, 0), np.outer(many, other)
    if not pair.matched:
        return Cosines(whole, count, np.diagonal(whole, axis1=1, axis2=2).T.copy(), count.diagonal().copy())
    own = np.zeros((groups, len(whole)))
    np.add.at(own, pair.x.groups, np.einsum("nsd,nsd->ns", pair.x.states, pair.y.states))
    return Cosines(whole, count, own, many)


def entering(pair: Pair) -> Pair:
    """The first set at its first state, beside every state of the other."""
    first = np.broadcast_to(pair.x.states[:, :1], pair.x.states.shape)
    return pair._replace(x=Set(first, pair.x.groups))


def at_state(pair: Pair, state: int) -> Pair:
    return pair._replace(x=_at(pair.x, state), y=_at(pair.y, state))


def _at(one: Set, state: int) -> Set:
    return Set(one.states[:, state : state + 1], one.groups)


def where(pair: Pair, chosen: np.ndarray) -> Pair:
    """Some groups alone."""
    return pair._replace(x=pair.x.where(chosen), y=pair.y.where(chosen))


def exchanged(pair: Pair, groups: int, draw: int) -> Pair:
    """Half of the groups with the state of the other set: which is which says nothing any more."""
    turned = random_half(groups, draw)[pair.x.groups][:, None, None]
    x, y = pair.x.states, pair.y.states
    return pair._replace(
        x=Set(np.where(turned, y, x), pair.x.groups),
        y=Set(np.where(turned, x, y), pair.y.groups),
    )


def _both(whole: Array, weights: Array) -> Array:
    """Σ_gh w_g whole[s, g, h] w_h, [draws, s]."""
    return np.stack([((weights @ one) * weights).sum(1) for one in whole], 1)
