"""Queries, keys and values of two models on the same text, compared by what they relate: one example at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...probes.model.random_weights import random_twin
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.sites import SITES
from .. import metrics
from ..common.controls import RANDOM_WEIGHTS, example_keys, one_of_each
from ..common.reference import same_tokens

KINDS = ("queries", "keys", "values")
TEXT = "the model itself on another text"
Vectors = list[tuple[Tensor, ...] | None]  # of each layer queries, keys and values [p, channels]; None without heads


def compared(
    subject: Any, reference: Any, example: Batch, texts: Sequence[str], most: int
) -> dict[str, Float[Tensor, "layers kinds"]]:
    """KL(other ‖ subject) of the relations of one example: the other is the reference, ("|" and its name) random
    weights of its shape, and the subject on another text, of which the longer one is cut. UserError: an image, a
    tokenizer that reads the text otherwise.
    """
    if bool(example.where("image").any()):
        raise UserError("relations compares two models on the same text, and here is an image: take a task of texts")
    own, heads = vectors(subject, example), relation_heads((subject, reference), most)
    same = same_tokens(reference, example, "relations")
    found = {"": divergences(vectors(reference, same), own, heads)}
    found[RANDOM_WEIGHTS] = divergences(vectors(random_twin(reference), same), own, heads)
    if texts:
        found[TEXT] = divergences(vectors(subject, _another(subject, example, texts)), own, heads)
    return found


def _another(subject: Any, example: Batch, texts: Sequence[str]) -> Batch:
    """A held-out text, the same for the same example, at least as long where there is one."""
    length = int(example.mask.sum())
    made = [subject.batch([text], **example.form) for text in texts]
    sizes = [int(batch.mask.sum()) for batch in made]
    known = [batch for batch, size in zip(made, sizes, strict=True) if size >= min(length, max(sizes))]
    return one_of_each(known, example_keys(example.example_ids, 0))[0]


def texts_of(batches: list[Batch]) -> list[str]:
    """The texts of held-out prompts, as far as they have no image."""
    each: list[Example] = [example for batch in batches for example in batch.examples]
    return list(dict.fromkeys(example.text for example in each if not example.images))


def vectors(subject: Any, example: Batch) -> Vectors:
    """Queries and keys before rotation, and values, of all heads side by side at the real tokens of one example."""
    real, found = example.mask[0], []

    def on_layer(layer: Layer) -> None:
        found.append(
            tuple(layer[name][0, real].flatten(1).float() for name in _sites(layer)) if layer.attends else None
        )

    with torch.no_grad(), tracing(subject, on_layer):
        subject.forward(example)
    return found


def _sites(layer: Layer) -> list[str]:
    """Families whose projections are one have queries and keys as the attention reads them."""
    return [*(name if layer.stack.has(layer.index, SITES[name]) else f"rot_{name}" for name in ("q", "k")), "v"]


def relation_heads(subjects: tuple[Any, ...], most: int) -> int:
    """The largest number, `most` at most, that divides the channels of queries, keys and values of all models."""
    widths = [count * one.d_head for one in subjects for count in (one.n_heads, one.n_kv_heads)]
    return max(heads for heads in range(1, most + 1) if all(width % heads == 0 for width in widths))


def matched(layers: int, of: int) -> list[int]:
    """For each of a model's layers the one of another model at the same relative depth."""
    return [round(layer * (of - 1) / max(1, layers - 1)) for layer in range(layers)]


def divergences(teacher: Vectors, student: Vectors, heads: int) -> Float[Tensor, "layers kinds"]:
    """Of each layer of the student and the teacher's at the same relative depth, nats; NaN where one has no heads."""
    found = []
    for own, layer in zip(student, matched(len(student), len(teacher)), strict=True):
        other = teacher[layer]
        if own is None or other is None:
            found.append(torch.full([len(KINDS)], torch.nan))
            continue
        length = min(len(own[0]), len(other[0]))  # what is cut away comes later, and changes nothing before it
        each = zip(other, own, strict=True)
        found.append(
            torch.stack([metrics.relation_divergence(a[:length], b[:length], heads).cpu().float() for a, b in each])
        )
    return torch.stack(found)
