"""Rows: what an analysis measured, one row an example; how one forward becomes rows; shards become one set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import SubjectError
from ...data.example import Example
from ...data.tokens import labels
from ..observe.tracing import Layer, tracing

if TYPE_CHECKING:
    from ..model.subject import Subject
    from ..prompts.batch import Batch


@dataclass(frozen=True)
class Rows:
    """All rows of a run, sorted by condition and example id.

    examples: id, group, condition ("BOS", "no BOS") and the examples' meta. values: name -> [n, ...].
    weights: what the analysis read from the weights alone, once a run. tokenizer: for `words`. folds, sums, counts:
    of the names that the analysis has summed (`SUMS`), one row a condition and fold, in the order of the columns
    condition and fold; sums, counts: name -> [folds, ...], counts without the NaN.
    """

    examples: pd.DataFrame
    values: dict[str, np.ndarray]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    tokenizer: Any = field(repr=False, default=None)
    folds: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["condition", "fold"]))
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    def where(self, chosen: np.ndarray) -> Rows:
        """The rows of some examples (a Boolean per example); without the sums, which are of whole folds."""
        return replace(
            self,
            examples=self.examples[chosen].reset_index(drop=True),
            values={name: value[chosen] for name, value in self.values.items()},
            folds=self.folds[:0],
            sums={},
            counts={},
        )

    def conditions(self) -> Iterator[tuple[str, Rows]]:
        """Each condition with its rows, in their order."""
        for condition in self.examples["condition"].unique():
            mine = (self.folds["condition"] == condition).to_numpy()
            yield (
                condition,
                replace(
                    self.where((self.examples["condition"] == condition).to_numpy()),
                    folds=self.folds[mine].reset_index(drop=True),
                    sums={name: value[mine] for name, value in self.sums.items()},
                    counts={name: value[mine] for name, value in self.counts.items()},
                ),
            )

    def words(self, ids: np.ndarray) -> np.ndarray:
        """Token ids of any shape as labels; two ids never share one."""
        unique = np.unique(ids)
        known = dict(zip(unique.tolist(), labels(self.tokenizer, unique), strict=True))
        return np.vectorize(known.__getitem__, otypes=[object])(ids)

    def subsets(self, column: str) -> list[tuple[str, Rows]]:
        """(subset, rows): the whole task ("all"), then its subsets by a meta column, where there is that column."""
        names = self.examples[column] if column in self.examples else pd.Series(dtype=object)
        return [
            ("all", self),
            *((str(n), self.where((names == n).to_numpy())) for n in sorted(names.dropna().unique())),
        ]


@dataclass(frozen=True)
class How:
    """How an analysis measures: its options, and what its `fit` has learned (None where it has none)."""

    options: Any
    learned: Any = None


def condition_of(bos: bool) -> str:
    """The name of a batch's condition."""
    return "BOS" if bos else "no BOS"


@torch.no_grad()
def observe(subject: Subject, batch: Batch, analyses: Mapping[str, tuple[Any, Any]]) -> dict[str, dict[str, Tensor]]:
    """One forward with several analyses on it: name -> (module, how) gives name -> rows.

    A module's `observe(layer, batch, how)` is called while that layer's tensors are alive; what it returns ([b, ...]
    each; None: this layer has no heads) is stacked to [b, layers, ...]. `measure(subject, batch, kept, how)`, where it
    exists, turns that stack into rows after the forward, when the model's last state is known.
    """
    kept: dict[str, list[dict[str, Tensor | None]]] = {name: [] for name in analyses}

    def on_layer(layer: Layer) -> None:
        for name, (module, how) in analyses.items():
            kept[name].append(module.observe(layer, batch, how))

    with tracing(subject, on_layer):
        subject.forward(batch)
    rows = {}
    for name, (module, how) in analyses.items():
        stacked = stack_layers(kept.pop(name))
        rows[name] = module.measure(subject, batch, stacked, how) if hasattr(module, "measure") else stacked
    return rows


def stack_layers(layers: Sequence[Mapping[str, Tensor | None]]) -> dict[str, Tensor]:
    """[{name: [b, ...]}] per layer -> {name: [b, layers, ...]}, of the layers that have the name; NaN for None.

    SubjectError: tensors that are not of one shape.
    """
    names = dict.fromkeys(name for layer in layers for name in layer)
    return {name: _stacked(name, [layer[name] for layer in layers if name in layer]) for name in names}


def _stacked(name: str, parts: list[Tensor | None]) -> Tensor:
    found = [part for part in parts if part is not None]
    shapes = {part.shape[1:] for part in found}
    if len(shapes) > 1:
        each = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise SubjectError(f"the heads of this model differ from layer to layer: {name} has {each}")
    there = found[-1].device  # moved together, since a GPU is waited for every time
    nothing = torch.full_like(found[0], torch.nan)
    return torch.stack([(nothing if part is None else part).to(there) for part in parts], 1).cpu()


def merge(shards: Iterable[dict[str, Tensor]], conditions: list[str], examples: list[Example]) -> Rows:
    """Shards, in the order of `conditions` and `examples`, as one sorted set of rows.

    What a shard lacks is NaN: positions behind its longest example, and a name that none of its examples has. So any
    batching merges alike. ValueError: shards of other lengths than the examples, as one without any name.
    """
    parts: dict[str, dict[int, np.ndarray]] = {}  # name -> its arrays by the row that each starts at
    count = 0
    for shard in shards:
        for name, tensor in shard.items():
            array = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
            parts.setdefault(name, {})[count] = array
        count += len(next(iter(shard.values()), ()))
    if count != len(examples):
        raise ValueError(f"shards hold {count} rows for {len(examples)} examples")
    own = ({"id": e.id, "group": e.group, "condition": c} for c, e in zip(conditions, examples, strict=True))
    # What a run is sorted and resampled by comes first and last: no meta can replace it.
    frame = pd.DataFrame([{**mine, **e.meta, **mine} for mine, e in zip(own, examples, strict=True)])
    order = frame.sort_values(["condition", "id"], kind="stable").index.to_numpy()
    values = {name: _concatenate(arrays, len(frame))[order] for name, arrays in parts.items()}
    return Rows(frame.iloc[order].reset_index(drop=True), values)


def _concatenate(arrays: Mapping[int, np.ndarray], count: int) -> np.ndarray:
    """[count, ...]: every array from its own row on."""
    shape = tuple(max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays.values()), strict=True))
    whole = sum(map(len, arrays.values())) == count and all(a.shape[1:] == shape for a in arrays.values())
    if whole:
        return np.concatenate(list(arrays.values()))
    out = np.full((count, *shape), np.nan, np.float32)
    for at, array in arrays.items():
        out[(slice(at, at + len(array)), *(slice(size) for size in array.shape[1:]))] = array
    return out
