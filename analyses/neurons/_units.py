"""The sums of a run by part, fold and label: made once for all tables that ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from weakref import ref

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...probes.runs.results import How, Rows
from ..common.frames import joined
from ._counts import COUNTED, PREFIXES, TEXT

Array = NDArray[Any]
NOTHING: dict[str, Any] = {"specific": (), "means": (), "random": (), "always": ()}
_made: list[tuple[ref[Rows], dict[str, Units]]] = []  # all makers of a condition ask for the same


def units_of(rows: Rows, how: How) -> dict[str, Units]:
    """By part of the model, the parts in which every label has tokens."""
    _made[:] = [one for one in _made if one[0]() is not None]
    for of, units in _made:
        if of() is rows:
            return units
    made = {part: Units(rows, len(how.learned.labels), prefix) for part, prefix in PREFIXES.items()}
    _made.append((ref(rows), {part: one for part, one in made.items() if one.whole}))
    return _made[-1][1]


def of_part(learned: Any, part: str) -> Any:
    """What was learned of a part in the place of what was learned of the decoder's words."""
    return learned if part == TEXT else learned._replace(**NOTHING | dict(learned.beside.get(part, {})))


def each_part(
    rows: Rows, how: How, parts: Sequence[str], maker: Callable[[Units, How], pd.DataFrame | None]
) -> pd.DataFrame | None:
    """What a maker makes of each part that was learned and has tokens here, with its name as column `module`."""
    units, frames = units_of(rows, how), []
    for part in (part for part in parts if part in units and (part == TEXT or part in how.learned.beside)):
        made = maker(units[part], replace(how, learned=of_part(how.learned, part)))
        if made is not None:
            frames.append(made.assign(module=part))
    return joined(frames) if frames else None


class Units:
    """The sums of a run by fold and label, so that they can be weighted, left out and given other labels.

    active, important [unit, layer, n], empty of what a part does not have; tokens, documents [unit]; fold, label
    Int[unit]. prefix: of the part, see `_counts`.
    """

    def __init__(self, rows: Rows, n_labels: int, prefix: str = "") -> None:
        parts: dict[str, list[Array]] = {name: [] for name in (*COUNTED, "documents")}
        places = []
        for i in range(n_labels):
            if f"{prefix}tokens|{i}" not in rows.sums:
                continue
            tokens = rows.sums[f"{prefix}tokens|{i}"].max(1)
            for f in np.flatnonzero(tokens > 0):
                places.append((f, i))
                parts["tokens"].append(tokens[f])
                parts["documents"].append(rows.counts[f"{prefix}important|{i}"][f].max())
                for name in (name for name in COUNTED[:2] if f"{prefix}{name}|{i}" in rows.sums):
                    parts[name].append(rows.sums[f"{prefix}{name}|{i}"][f])
        self.n_labels, self.n_examples = n_labels, len(rows.examples)
        self.fold, self.label = np.array(places, int).reshape(-1, 2).T
        self.active, self.important = (np.array(parts[name]) for name in COUNTED[:2])
        self.tokens, self.documents = (np.array(parts[name], float) for name in ("tokens", "documents"))

    @property
    def whole(self) -> bool:
        """Whether every label has tokens."""
        return len({*self.label.tolist()}) == self.n_labels

    def probability(self, weights: Array | None = None, label: Array | None = None) -> Tensor:
        """[layer, n, label]: share of a label's tokens that activate a neuron. weights: of the folds."""
        return torch.from_numpy(self._share(self.active, self.tokens, weights, label))

    def important_share(self, weights: Array | None = None, label: Array | None = None) -> Array:
        """[layer, n, label]: share of a label's documents that a neuron matters to."""
        return self._share(self.important, self.documents, weights, label)

    def _share(self, sums: Array, of: Array, weights: Array | None, label: Array | None) -> Array:
        label = self.label if label is None else label
        weight = np.ones(len(label)) if weights is None else weights[self.fold]
        member = (np.arange(self.n_labels)[:, None] == label) * weight
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.tensordot(member, sums, 1).transpose(1, 2, 0) / (member @ of)

    def permuted(self, draws: int) -> Iterator[Array]:
        """Other labels for the units: those of a fold among themselves, or, where some folds lack labels (a picture is
        of one kind alone), those of all folds.
        """
        rng = np.random.default_rng(0)
        whole = len(self.label) == len(np.unique(self.fold)) * self.n_labels
        blocks = self.fold if whole else np.zeros_like(self.fold)
        for _ in range(draws):
            label = self.label.copy()
            for block in np.unique(blocks):
                mine = blocks == block
                label[mine] = rng.permutation(label[mine])
            yield label
