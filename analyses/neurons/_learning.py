"""What held-out texts tell of every neuron before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ..common.labels import label_of
from ._counts import has_neurons, observed, places
from ._tower import counts_before


class Known(NamedTuple):
    """probability: share of a label's tokens that activate a neuron. important: share of its texts to which the neuron
    (or channel) matters. mean: activation over the tokens of all labels. NaN in layers without neurons; empty of what
    a part does not have.
    """

    probability: Float[Tensor, "layer n label"]
    important: Float[Tensor, "layer n label"]
    mean: Float[Tensor, "layer n"]


class Tally:
    """Sums of one part by layer and label, as batch after batch is added."""

    def __init__(self, layers: int, labels: int) -> None:
        self.layers, self.labels = layers, labels
        self.sums: dict[str, dict[int, Tensor]] = {}

    def add(self, layer: int, own: Tensor, values: Mapping[str, Tensor]) -> None:
        """values: [b, …] each. own: the label of each example, −1 without one."""
        known = own >= 0
        for name, value in (*values.items(), ("texts", (~values["tokens"].isnan()).float())):
            value = value.nan_to_num().double().cpu()
            mine = self.sums.setdefault(name, {})
            mine.setdefault(layer, value.new_zeros(self.labels, *value.shape[1:]))
            mine[layer].index_add_(0, own[known], value[known])

    @property
    def whole(self) -> bool:
        """Whether every label has tokens."""
        return bool((self._by_layer("tokens").nan_to_num().sum(0) > 0).all()) if self.sums else False

    def known(self) -> Known:
        total, tokens = self._by_layer("total"), self._by_layer("tokens")
        mean = total.sum(1) / tokens.sum(1)[:, None] if "total" in self.sums else total
        return Known(self._share("active", "tokens"), self._share("important", "texts"), mean)

    def _share(self, name: str, of: str) -> Tensor:
        if name not in self.sums:
            return torch.zeros(0, 0, self.labels)
        return (self._by_layer(name) / self._by_layer(of)[..., None]).transpose(1, 2)

    def _by_layer(self, name: str) -> Tensor:
        """[layer, label, …], NaN in layers without it; nothing where no layer has it."""
        there = self.sums.get(name, {})
        nothing = torch.full_like(next(iter(there.values()), torch.zeros(0)), torch.nan)
        return torch.stack([there.get(layer, nothing) for layer in range(self.layers)])


def learn(subject: Any, batches: Sequence[Batch], labels: Sequence[str], options: Any) -> dict[str, Known]:
    """By part of the model, the parts in which every label has tokens. options: as those of the analysis."""
    tallies: dict[str, Tally] = {}
    for batch in batches:
        named = [label_of(example, options.by) for example in batch.examples]
        own = torch.tensor([labels.index(name) if name in labels else -1 for name in named])

        def keep(layer: Layer, batch: Batch = batch, own: Tensor = own) -> None:
            totals = _totals(layer, batch)
            for part, values in observed(layer, batch, options).items():
                if values is not None:
                    mine = tallies.setdefault(part, Tally(subject.n_layers, len(labels)))
                    mine.add(layer.index, own, {**values, **totals.get(part, {})})

        with tracing(subject, keep):
            subject.forward(batch)
        for part, counts in counts_before(subject, batch, options.top).items():
            layers = counts["tokens"].shape[1]
            mine = tallies.setdefault(part, Tally(layers, len(labels)))
            for layer in range(layers):
                mine.add(layer, own, {name: value[:, layer] for name, value in counts.items()})
    return {part: one.known() for part, one in tallies.items() if one.whole}


def _totals(layer: Layer, batch: Batch) -> dict[str, dict[str, Tensor]]:
    """By part of the decoder the sum of each neuron's activation, for its mean."""
    if not has_neurons(layer.stack, layer.index):
        return {}
    acts = layer["mlp_post"].float()
    return {
        part: {"total": (kept.float().to(acts.device)[:, None] @ acts)[:, 0]} for part, kept in places(batch).items()
    }
