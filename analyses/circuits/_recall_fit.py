"""The regression m ≈ Σ_h w_h · o_h + b by least squares: one scalar for each head, a vector b for each kind of prompt.

m: what an MLP writes [n, d]; o: what heads write [n, k, d]. Fitted on some prompts, scored on others. b takes up what
all prompts of a kind have in common, so that w stands for what differs from prompt to prompt.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..common.controls import other_groups
from ..common.resampling import interval

Array = NDArray[Any]


class Prompts(NamedTuple):
    """kinds, groups: [n], names; fitted: Bool[n], the prompts that w and b come from."""

    kinds: Array
    groups: Array
    fitted: Array


def kinds_of(examples: pd.DataFrame) -> Array:
    """What kind a prompt is of: its relation and template, where the task has them."""
    named = [examples[name].astype(str) for name in ("relation", "template") if name in examples]
    return np.array([" ".join(one) for one in zip(*named, strict=True)] if named else [""] * len(examples))


def means(values: Array, prompts: Prompts) -> Array:
    """Each prompt's kind's mean over the fitted prompts, [n, …]; NaN where none of the kind was fitted."""
    found = np.full(values.shape, np.nan)
    for kind in np.unique(prompts.kinds):
        mine = prompts.kinds == kind
        if (mine & prompts.fitted).any():
            found[mine] = values[mine & prompts.fitted].mean(0)
    return found


def products(o: Array, m: Array, prompts: Prompts) -> tuple[Array, Array]:
    """Of every prompt the inner products of centred outputs, [n, k, k] among heads and [n, k] with the MLP's."""
    o, m = o - means(o, prompts), m - means(m, prompts)
    return np.einsum("nkd,njd->nkj", o, o), np.einsum("nkd,nd->nk", o, m)


def solved(among: Array, across: Array) -> Array:
    """w [..., k] of summed products; the shortest where heads write the same."""
    return (np.linalg.pinv(among, rcond=1e-10, hermitian=True) @ across[..., None])[..., 0]


def weights(o: Array, m: Array, prompts: Prompts) -> Array:
    """w [k] of the fitted prompts."""
    among, across = products(o, m, prompts)
    return solved(among[prompts.fitted].sum(0), across[prompts.fitted].sum(0))


def weight_intervals(o: Array, m: Array, prompts: Prompts) -> tuple[Array, Array, Array]:
    """(w, lower, upper), [k] each, by the groups of the fitted prompts; the kinds' means are held as they are."""
    among, across = (one[prompts.fitted] for one in products(o, m, prompts))
    names, codes = np.unique(prompts.groups[prompts.fitted], return_inverse=True)
    sums = [np.stack([one[codes == g].sum(0) for g in range(len(names))]) for one in (among, across)]

    def statistic(counts: Array) -> Array:
        return solved(*(np.tensordot(counts, one, 1) for one in sums))

    present = np.ones((len(names), o.shape[1]), bool)
    return interval(statistic, present, n_boot=2000, seed=0, level=0.95)


def offset(o: Array, m: Array, prompts: Prompts) -> Array:
    """b [n, d] of each prompt's kind."""
    return means(m, prompts) - np.einsum("k,nkd->nd", weights(o, m, prompts), means(o, prompts))


def explained(o: Array, m: Array, prompts: Prompts) -> tuple[Array, Array]:
    """Of every prompt (Σ m² − Σ rest², Σ m²), m counted from its kind's mean: their sums' quotient is R², beyond b."""
    rest = m - np.einsum("k,nkd->nd", weights(o, m, prompts), o) - offset(o, m, prompts)
    whole = ((m - means(m, prompts)) ** 2).sum(-1)
    return whole - (rest**2).sum(-1), whole


def exchanged(prompts: Prompts, draw: int) -> Array:
    """For every prompt one of its kind and half, of another group, Int[n]; itself where there is none."""
    found = np.arange(len(prompts.kinds))
    for kind in np.unique(prompts.kinds):
        for half in (True, False):
            mine = np.flatnonzero((prompts.kinds == kind) & (prompts.fitted == half))
            names, firsts, codes = np.unique(prompts.groups[mine], return_index=True, return_inverse=True)
            if len(names) > 1:
                found[mine] = mine[firsts[other_groups(len(names), draw)]][codes]
    return found


def explained_by_others(o: Array, m: Array, prompts: Prompts, draws: int) -> Array:
    """The same first number with every prompt's heads taken from another one, fitted anew, mean over draws; NaN where
    there is no other.
    """
    gained = []
    for draw in range(draws):
        other = exchanged(prompts, draw)
        own = other == np.arange(len(other))
        gained.append(np.where(own, np.nan, explained(o[other], m, prompts)[0]))
    return np.mean(gained, 0)
