"""Rows too large to be kept by example: summed by fold when a shard is saved, and over all shards when it is read.

A fold is a set of whole groups (documents, templates), about FOLDS of them a run, the same for every batching. A shard
holds examples of one fold, so its file has one sum a name: a run's files and memory grow with its folds and shards, not
with examples × numbers. Tables take folds as groups: Σ sums / Σ counts, intervals over folds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .plan import Shard

FOLDS = 20
COUNTED = "counted"  # the row of an example of which everything was summed


def folds_of(groups: Iterable[str], count: int = FOLDS) -> dict[str, int]:
    """Group -> fold, 0 … count − 1, as many groups in each as can be; by the names of the groups alone."""
    names = sorted(set(groups))
    order = np.random.default_rng(0).permutation(len(names))
    return {name: int(place) % count for name, place in zip(names, order, strict=True)}


def summed(rows: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The rows of one fold's examples with those of `names` summed: "sum|<name>" and "count|<name>" [1, ...].

    Sums are float64, without the NaN; counts are those of the rows that are not NaN, one number where none is.
    """
    own = {name: tensor for name, tensor in rows.items() if name not in names}
    for name in names:
        if name in rows:
            there = ~rows[name].isnan() if rows[name].is_floating_point() else torch.ones_like(rows[name]).bool()
            own[f"sum|{name}"] = torch.where(there, rows[name], 0).sum(0, keepdim=True, dtype=torch.float64)
            whole = bool(there.all())
            own[f"count|{name}"] = torch.tensor([len(there)]) if whole else there.sum(0, keepdim=True)
    return own


@dataclass
class FoldSums:
    """Sums and counts by condition and fold, as shard after shard is added."""

    sums: dict[tuple[str, int], dict[str, np.ndarray]] = field(default_factory=dict)
    counts: dict[tuple[str, int], dict[str, np.ndarray]] = field(default_factory=dict)

    def without_sums(self, shards: Iterable[tuple[Shard, str, dict[str, Tensor]]]) -> Iterator[dict[str, Tensor]]:
        """The rows by example of (shard, condition, saved rows), whose sums are added here; one shard is alive."""
        for shard, condition, saved in shards:
            if shard.fold is not None:
                self._add((condition, shard.fold), saved)
            own = {name: tensor for name, tensor in saved.items() if not name.startswith(("sum|", "count|"))}
            yield own or {COUNTED: torch.ones(len(shard.ids))}

    def _add(self, place: tuple[str, int], saved: dict[str, Tensor]) -> None:
        for kind, totals in (("sum|", self.sums), ("count|", self.counts)):
            mine = totals.setdefault(place, {})
            for key in (key for key in saved if key.startswith(kind)):
                name, new = key.removeprefix(kind), saved[key][0].numpy()
                mine[name] = new.copy() if name not in mine else mine[name] + new

    def folds(self) -> pd.DataFrame:
        """condition fold, in order."""
        return pd.DataFrame(sorted(self.sums), columns=["condition", "fold"])

    def stacked(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Sums and counts, name -> [folds, ...]; 0 of 0 where a fold lacks the name."""
        places = sorted(self.sums)
        names = dict.fromkeys(name for place in places for name in self.sums[place])
        shapes = {name: next(s[name].shape for s in self.sums.values() if name in s) for name in names}

        def stack(of: dict[tuple[str, int], dict[str, np.ndarray]], name: str) -> np.ndarray:
            return np.stack([np.broadcast_to(of[place].get(name, np.array(0)), shapes[name]) for place in places])

        return {name: stack(self.sums, name) for name in names}, {name: stack(self.counts, name) for name in names}
