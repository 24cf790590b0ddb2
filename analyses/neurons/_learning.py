"""What held-out texts tell of every neuron before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.intervene.readout import mlp_width
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ._counts import active, has_neurons, important, label_of, tokens_of


class Known(NamedTuple):
    """probability: share of a label's tokens that activate a neuron. important: share of its texts to which the neuron
    matters. mean: activation over the tokens of all labels. NaN in layers without neurons.
    """

    probability: Float[Tensor, "layer n label"]
    important: Float[Tensor, "layer n label"]
    mean: Float[Tensor, "layer n"]


def learn(subject: Any, batches: Sequence[Batch], labels: Sequence[str], top: float) -> Known:
    """top: see `_counts.important`."""
    shape = subject.n_layers, mlp_width(subject), len(labels)
    fires, matters = torch.zeros(2, *shape, dtype=torch.float64)
    total = torch.zeros(shape[:2], dtype=torch.float64)
    tokens, texts = torch.zeros(2, len(labels))
    for batch in batches:
        kept, own = tokens_of(batch), torch.tensor([labels.index(label_of(e)) for e in batch.examples])
        tokens.index_add_(0, own, kept.sum(1).float())
        texts.index_add_(0, own, torch.ones(len(own)))

        def keep(layer: Layer, kept: Tensor = kept, own: Tensor = own) -> None:
            i = layer.index
            if not has_neurons(subject.decoder, i):
                fires[i] = matters[i] = total[i] = torch.nan
                return
            there = kept.to(layer.resid_pre.device)
            fires[i].index_add_(1, own, active(layer, there).T.double().cpu())
            matters[i].index_add_(1, own, important(layer, there, top).T.double().cpu())
            total[i] += (there.flatten().float() @ layer["mlp_post"].float().flatten(0, 1)).double().cpu()

        with tracing(subject, keep):
            subject.forward(batch)
    return Known(fires / tokens, matters / texts, total / tokens.sum())
