"""What single neurons read and write, in tokens: where they are most active, and what their output points to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ._counts import tokens_of

WORDS = 6  # of each neuron
Neuron = tuple[int, int]


def reads(subject: Any, batches: Sequence[Batch], neurons: Sequence[Neuron]) -> dict[Neuron, list[int]]:
    """The tokens at which each neuron is largest over all texts, the largest first; each token once."""
    found: dict[Neuron, dict[int, float]] = {neuron: {} for neuron in neurons}
    for batch in batches:
        kept, ids = tokens_of(batch), batch.inputs["input_ids"]

        def keep(layer: Layer, kept: Tensor = kept, ids: Tensor = ids) -> None:
            own = [neuron for neuron in found if neuron[0] == layer.index]
            if own:
                acts = (
                    layer["mlp_post"][kept.to(layer.resid_pre.device)][:, [neuron for _, neuron in own]].float().cpu()
                )
                for neuron, column in zip(own, acts.T, strict=True):
                    _keep_largest(found[neuron], ids[kept], column)

        with tracing(subject, keep):
            subject.forward(batch)
    return {neuron: sorted(words, key=lambda word: -words[word])[:WORDS] for neuron, words in found.items()}


def _keep_largest(best: dict[int, float], ids: Tensor, values: Tensor) -> None:
    largest = values.topk(min(len(values), 8 * WORDS))
    for value, token in zip(largest.values.tolist(), ids[largest.indices].tolist(), strict=True):
        if value > best.get(token, 0.0):
            best[token] = value


@torch.no_grad()
def writes(subject: Any, neurons: Sequence[Neuron]) -> dict[Neuron, list[int]]:
    """The tokens whose logits each neuron raises most where it is active, by W_U · W_down alone: no layer and no norm
    between is asked.
    """
    rows = [subject.decoder.W_down(layer)[neuron].float() for layer, neuron in neurons]
    if not rows:
        return {}
    unembedding = subject.W_U.float()
    raised = torch.stack(rows).to(unembedding.device) @ unembedding.T
    return {neuron: top.tolist() for neuron, top in zip(neurons, raised.topk(WORDS).indices, strict=True)}
