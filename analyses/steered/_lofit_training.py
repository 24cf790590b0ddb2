"""Heads' outputs scaled and shifted, (1 + a) ⊙ z + v: in a forward, and learned from examples with the model frozen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...data.example import Example
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import Head
from ..common.descent import Descent, Weights, descend, frozen

SPREAD = 1e-3  # of what training begins with, as in the paper


class Edit(NamedTuple):
    """scale, offset: of every head's output z, zeros in heads that stay as they are."""

    scale: Float[Tensor, "layer h d"]
    offset: Float[Tensor, "layer h d"]


class Prompts(NamedTuple):
    """What is learned from: examples, and the form that batches of them have."""

    examples: Sequence[Example]
    form: Mapping[str, Any]

    def batch(self, subject: Any, rows: Sequence[int]) -> Batch:
        return subject.batch([self.examples[i] for i in rows], **self.form)


@contextmanager
def editing(subject: Any, edit: Edit, layers: Collection[int]) -> Iterator[None]:
    """During the block z is (1 + scale) ⊙ z + offset in these layers, at every position."""

    def edited(layer: int, z: Float[Tensor, "b p h d"]) -> Tensor:
        heads = z.shape[-2]  # of this layer: some have fewer than the widest
        scale, offset = (part[layer, :heads].to(z.device) for part in edit)
        return metrics.edit_heads(z, scale, offset).to(z.dtype)

    with tracing(subject, rewrites={(layer, "z"): partial(edited, layer) for layer in layers}):
        yield


def layers_of(edit: Edit) -> list[int]:
    """The layers in which it changes anything."""
    changes = (edit.scale != 0) | (edit.offset != 0)
    return changes.flatten(1).any(1).nonzero()[:, 0].tolist()


def shape_of(subject: Any) -> tuple[int, int, int]:
    return subject.n_layers, subject.n_heads, subject.d_head


def scaling(scale: Float[Tensor, "layer h d"]) -> Edit:
    return Edit(scale, torch.zeros_like(scale))


def shifting(shape: Sequence[int], heads: Sequence[Head], values: Float[Tensor, "k d"]) -> Edit:
    """An offset in these heads alone."""
    layers, places = torch.tensor(heads).T
    none = values.new_zeros(tuple(shape))
    return Edit(none, none.index_put((layers, places), values))


def learned_scales(subject: Any, prompts: Prompts, options: Any, seed: int) -> Float[Tensor, "layer h d"]:
    """The first stage: a of every head, none where a layer has no such head."""
    layers, shape = list(subject.decoder.attending), shape_of(subject)
    there = torch.zeros(shape)
    for layer in layers:
        there[layer, : subject.decoder.heads(layer)] = 1
    learned = _learned(
        subject, prompts, there * _begun(shape, seed), lambda a: scaling(a * there), layers, options, seed
    )
    return learned * there


def learned_offsets(
    subject: Any, prompts: Prompts, heads: Sequence[Head], options: Any, seed: int = 0
) -> Float[Tensor, "k d"]:
    """The second stage: v of these heads, everything else as it is."""
    shape, layers = shape_of(subject), sorted({layer for layer, _ in heads})
    first = _begun((len(heads), subject.d_head), seed)
    return _learned(subject, prompts, first, lambda v: shifting(shape, heads, v), layers, options, seed)


def _begun(shape: Sequence[int], seed: int) -> Tensor:
    return SPREAD * torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def _learned(
    subject: Any,
    prompts: Prompts,
    first: Tensor,
    edit: Callable[[Tensor], Edit],
    layers: Collection[int],
    options: Any,
    seed: int,
) -> Tensor:
    """What is left of `first` after all steps: cross-entropy of the answers' first tokens, plus l1 · Σ|scale|."""

    def loss(weights: Weights, rows: Tensor) -> Tensor:
        batch, edited = prompts.batch(subject, rows.tolist()), edit(weights["edit"])
        return answer_loss(subject, batch, edited, layers) + options.l1 * edited.scale.abs().sum()

    count = len(prompts.examples)
    descent = Descent(options.steps, min(options.batch, count), options.rate, seed)
    with frozen(subject.model), TemporaryDirectory() as folder:
        weights, _ = descend({"edit": first}, loss, count, descent, Path(folder) / "weights", "heads' edits")
    return weights["edit"]


def answer_loss(subject: Any, batch: Batch, edit: Edit, layers: Collection[int]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the answers' first tokens, nats, with its graph."""
    with editing(subject, edit, layers):
        logits = subject.logits_at(batch, batch.last, gradient=True)
    return cross_entropy(logits.float(), batch.answers.to(logits.device))
