"""Chosen on one half of the groups, measured on the other: the one split of every analysis that chooses something.

`fit` chooses on held-out examples of half of the groups and keeps their names; what it chose is then measured on
examples of the other groups alone. What a table chooses from its own rows is chosen on the same half.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ...data.errors import NothingToMeasure, UserError
from ...probes.prompts.batch import Batch
from ...probes.runs.plan import first_condition
from ...probes.runs.results import Rows
from . import stats
from .controls import DRAWS, Head, random_circuits

Array = NDArray[Any]


def chosen_half(subject: Any, batches: Sequence[Batch], analysis: str) -> tuple[list[Batch], list[str]]:
    """The held-out batches of the first condition, cut to one half of the groups; and the names of these groups.

    UserError: fewer than two groups.
    """
    mine = first_condition(batches)
    groups = np.array([example.group for batch in mine for example in batch.examples])
    if len(np.unique(groups)) < 2:
        raise UserError(f"{analysis} needs a task with at least two groups: it chooses on one half of them")
    names = sorted(set(groups[stats.split_half(groups)[0]].tolist()))
    cut = [[example for example in batch.examples if example.group in names] for batch in mine]
    return [subject.batch(some, **mine[0].form) for some in cut if some], names


def measured(groups: ArrayLike, selected_on: Collection[str]) -> NDArray[np.bool_]:
    """The examples of groups that nothing was chosen on, Bool[n]."""
    return ~np.isin(np.asarray(groups, str), list(selected_on))


def halves(groups: ArrayLike, selected_on: Collection[str] = ()) -> tuple[Array, Array]:
    """(chosen on, measured on), Bool[n] each: the groups of `selected_on` and the others.

    Where none, or nothing but them is here, two halves of the groups; nothing with fewer than two groups.
    """
    other = measured(groups, selected_on)
    if 0 < other.sum() < len(other):
        return ~other, other
    if len(np.unique(np.asarray(groups))) < 2 or not other.any():
        return np.zeros(len(other), bool), other
    return stats.split_half(groups)


def measured_rows(rows: Rows, selected_on: Collection[str], analysis: str) -> Rows:
    """The rows of groups that nothing was chosen on. NothingToMeasure: none is left."""
    left = rows.where(measured(rows.examples["group"], selected_on))
    if not len(left.examples):
        raise NothingToMeasure(
            f"{analysis}: no example is left in the groups that nothing was chosen on: raise --limit"
        )
    return left


def strongest(values: Float[Tensor, "layer h"], count: int) -> list[Head]:
    """The heads of the largest values, largest first; NaN, where a layer has no such head, comes last."""
    order = values.nan_to_num(nan=-torch.inf).flatten().argsort(descending=True, stable=True)[:count]
    return [divmod(int(at), values.shape[1]) for at in order]


def at(values: Array, heads: Sequence[Head]) -> Array:
    """Some heads of a map [n, layer, head], [n, heads]."""
    layers, places = np.array(heads, int).reshape(-1, 2).T
    return values[:, layers, places]


def at_random(values: Array, heads: Sequence[Head], draws: int = DRAWS) -> Array:
    """[n, heads]: each head's mean over random heads of its layer, none of `heads`; NaN where there are not as many."""
    drawn = random_circuits(heads, values.shape[2], draws)
    if not drawn:
        return np.full((len(values), len(heads)), np.nan)
    mean, layers = np.mean([at(values, circuit) for circuit in drawn], 0), np.array([layer for layer, _ in drawn[0]])
    return np.stack([mean[:, layers == layer].mean(1) for layer, _ in heads], 1)
