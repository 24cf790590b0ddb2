"""What is counted of neurons: for each label how many tokens activate one, and how many documents it matters to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...probes.model.stack import Stack
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.sites import SITES
from ..common.labels import label_of

MOST = 8  # labels
COUNTED = ("active", "important", "tokens")
SUMMED = tuple(f"{name}|{i}" for name in COUNTED for i in range(MOST))


def labels_in(examples: Sequence[Example]) -> list[str]:
    """All labels, in the order of their names. UserError: fewer than two, or more than MOST."""
    found = sorted({label_of(example) for example in examples} - {""})
    if not 2 <= len(found) <= MOST:
        told = ", ".join(found[:MOST]) or "none"
        raise UserError(
            f"neurons compares 2 to {MOST} labels (meta label or kind of the examples), and held-out examples have "
            f"{len(found)}: {told}; --task texts has languages and domains"
        )
    return found


def tokens_of(batch: Batch) -> Bool[Tensor, "b p"]:
    """The tokens of text that are counted: all but images and each example's first, which is like no other."""
    return batch.mask & (batch.mask.cumsum(1) > 1) & ~batch.where("image")


def counts(layer: Layer, batch: Batch, labels: Sequence[str], top: float) -> dict[str, Tensor | None]:
    """By label i, NaN for examples of others: "active|i" [b, n], tokens with act > 0; "important|i" [b, n], whether a
    neuron is in the layer's top share by what removing it changes; "tokens|i" [b]. None without neurons.
    """
    names = [f"{name}|{i}" for i in range(len(labels)) for name in COUNTED]
    if not has_neurons(layer.stack, layer.index):
        return dict.fromkeys(names)
    kept = tokens_of(batch).to(layer.resid_pre.device)
    values = {
        "active": active(layer, kept),
        "important": important(layer, kept, top),
        "tokens": kept.sum(1).float(),
    }
    own = [label_of(example) for example in batch.examples]
    rows: dict[str, Tensor | None] = {}
    for i, label in enumerate(labels):
        mine = torch.tensor([one == label for one in own], device=kept.device)
        for name, value in values.items():
            rows[f"{name}|{i}"] = torch.where(mine.reshape(-1, *[1] * (value.ndim - 1)), value, torch.nan)
    return rows


def has_neurons(stack: Stack, layer: int) -> bool:
    """Whether the stack's MLP there has neurons."""
    return all(stack.has(layer, SITES[site]) for site in ("mlp_pre", "mlp_post"))


def active(layer: Layer, kept: Bool[Tensor, "b p"]) -> Float[Tensor, "b n"]:
    """Tokens at which the activation function gives more than 0, which it does where it reads more than 0."""
    fires = (layer["mlp_pre"] > 0).float()
    return (kept.float()[:, None] @ fires)[:, 0]


def important(layer: Layer, kept: Bool[Tensor, "b p"], top: float) -> Float[Tensor, "b n"]:
    """1 for the neurons of the layer's top share by `removal`, else 0."""
    size = removal(layer, kept)
    count = max(1, round(top * size.shape[1]))
    return (size >= size.topk(count, 1).values[:, -1:]).float()


def removal(layer: Layer, kept: Bool[Tensor, "b p"]) -> Float[Tensor, "b n"]:
    """`metrics.neuron_removal` summed over the tokens: |act| first, the norm of W_down behind the sum."""
    size = (kept.float()[:, None] @ layer["mlp_post"].float().abs())[:, 0]
    return size * layer.stack.W_down(layer.index).float().norm(dim=1).to(size.device)
