"""What single neurons pass on in running text, the tokens they read, and what their output points to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ..common.places import text_without_first

SHOWN = 25  # neurons of each label
WORDS = 6  # of each neuron
WITHIN = 128  # tokens of a text
Neuron = tuple[int, int]


class Text(NamedTuple):
    """The first tokens of a text, images left out, their places in the prompt, and what each neuron passes on there
    (what W_down reads); NaN at the text's first token, which is like no other.
    """

    ids: Int[Tensor, "t"]
    places: Int[Tensor, "t"]
    acts: Float[Tensor, "t n"]


def read_texts(subject: Any, batches: Sequence[Batch], neurons: Sequence[Neuron]) -> list[Text]:
    """Every text as these neurons see it, in order."""
    return [text for batch in batches for text in _of_batch(subject, batch, neurons)]


def _of_batch(subject: Any, batch: Batch, neurons: Sequence[Neuron]) -> list[Text]:
    acts = torch.full((*batch.mask.shape, len(neurons)), torch.nan)

    def keep(layer: Layer) -> None:
        own = [i for i, (at, _) in enumerate(neurons) if at == layer.index]
        if own:
            acts[..., own] = layer["mlp_post"][..., [neurons[i][1] for i in own]].float().cpu()

    with tracing(subject, keep):
        subject.forward(batch)
    acts[~text_without_first(batch)] = torch.nan
    text = batch.mask & ~batch.where("image")
    places = [row.nonzero()[:WITHIN, 0] for row in text]
    return [Text(batch.inputs["input_ids"][i, at], at, acts[i, at]) for i, at in enumerate(places)]


def sides(texts: Sequence[Text]) -> Float[Tensor, "n"]:
    """For each neuron 1, or −1 where its large activations lie below 0: the sign of the sum of act · |act|."""
    total = sum(((text.acts * text.acts.abs()).nansum(0) for text in texts), torch.zeros(()))
    return torch.where(total < 0, -1.0, 1.0)


def turned(texts: Sequence[Text], side: Float[Tensor, "n"]) -> list[Text]:
    """The texts with every neuron's large activations above 0."""
    return [text._replace(acts=text.acts * side) for text in texts]


def reads(texts: Sequence[Text], neurons: Sequence[Neuron]) -> dict[Neuron, list[int]]:
    """The tokens at which each neuron is largest over all texts, the largest first; each token once."""
    ids = torch.cat([text.ids for text in texts])
    acts = torch.cat([text.acts for text in texts]).nan_to_num(nan=0.0)
    found = {}
    for neuron, column in zip(neurons, acts.T, strict=True):
        largest = column.topk(min(len(column), 8 * WORDS))
        positive = ids[largest.indices[largest.values > 0]].tolist()
        found[neuron] = [*dict.fromkeys(positive)][:WORDS]
    return found


@torch.no_grad()
def writes(subject: Any, neurons: Sequence[Neuron], side: Float[Tensor, "n"]) -> dict[Neuron, list[int]]:
    """The tokens whose logits each neuron raises most on its side of 0, by W_U · W_down alone: no layer and no norm
    between is asked.
    """
    rows = [subject.decoder.W_down(layer)[neuron].float() for layer, neuron in neurons]
    if not rows:
        return {}
    unembedding = subject.W_U.float()
    outputs = torch.stack(rows).to(unembedding.device) * side.to(unembedding.device)[:, None]
    raised = (outputs @ unembedding.T).topk(WORDS).indices
    return {neuron: top.tolist() for neuron, top in zip(neurons, raised, strict=True)}
