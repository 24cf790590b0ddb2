"""Attention of groups of queries on groups of keys, reduced while the layer is alive; the same of changed prompts."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...data.example import Example, Segment
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting
from ...probes.runs.results import stack_layers
from ..common.changed import Change, Changed, changed

QUERIES = ("image", "question", "answer", "last")
KEYS = ("first", "text before", "image", "text behind")
IMAGE = KEYS.index("image")
STAND_IN = "in the image's place"  # the mark of text that stands where the image was
NEUTRAL = (
    "The weather has been mild this week, and the road to the village is open again. The train leaves at noon and "
    "comes back in the evening. "
)


class Groups(NamedTuple):
    """queries [b, QUERIES, p], keys [b, KEYS, p]: every real key is in one group. steps Int[b, s]: the positions that
    predict the answer, -1 behind them; the first of them is "last", the others are "answer".

    Text behind the image holds what separates its rows too; "question" is all of it before the answer.
    """

    queries: Bool[Tensor, "b queries p"]
    keys: Bool[Tensor, "b keys p"]
    steps: Int[Tensor, "b s"]


@lru_cache(maxsize=4)  # every layer asks for the same
def groups_of(batch: Batch) -> Groups:
    image = batch.marks[STAND_IN] if STAND_IN in batch.marks else batch.where("image")
    real, begun = batch.mask, image.cumsum(1) > 0
    first = real & (real.cumsum(1) == 1)
    keys = torch.stack([first & ~image, real & ~begun & ~first, image, real & begun & ~image], 1)
    steps = predicting(batch)
    answering = torch.zeros_like(real, dtype=torch.int).scatter_add_(1, steps.clamp_min(0), (steps >= 0).int()) > 0
    last = torch.zeros_like(real).scatter_(1, steps[:, :1].clamp_min(0), True)
    question = real & begun & ~image & ~answering & ~batch.where("answer")
    return Groups(torch.stack([image, question, answering & ~last, last], 1), keys, steps)


def shares(layer: Layer, batch: Batch) -> dict[str, Tensor | None]:
    """mass, twin [b, h, QUERIES, KEYS], uniform [b, QUERIES, KEYS]: mean attention of a group's queries on a group of
    keys; in the sink twin, without the first key, the first group has nothing. steps, even steps [b, s]: on the image
    by the positions that predict the answer, mean over heads, and of uniform attention. None without heads.
    """
    if not layer.attends:
        return dict.fromkeys(("mass", "twin", "uniform", "steps", "even steps"))
    device = layer.resid_pre.device
    queries, keys, steps = (tensor.to(device) for tensor in groups_of(batch))
    mass, twin = layer.sums.mass_and_twin(keys)
    even = layer.sums.uniform_mass(keys).mean(1)
    at = steps.clamp_min(0)
    there = torch.where(steps >= 0, 1.0, torch.nan)
    return {
        "mass": _of_queries(mass, queries),
        "twin": _of_queries(twin, queries),
        "uniform": _of_queries(even[:, None], queries)[:, 0],
        "steps": mass[..., IMAGE].mean(1).gather(1, at) * there,
        "even steps": even[..., IMAGE].gather(1, at) * there,
    }


def _of_queries(mass: Float[Tensor, "b h q k"], queries: Bool[Tensor, "b g q"]) -> Float[Tensor, "b h g k"]:
    """Mean over each group's queries that have a number; NaN without any."""
    known = ~mass[..., 0].isnan()
    chosen = (queries[:, None] & known[:, :, None]).float()
    return (chosen @ mass.nan_to_num()) / chosen.sum(-1, keepdim=True)


def shares_of(
    subject: Any, batch: Batch, change: Change
) -> tuple[Changed, dict[str, Tensor], Float[Tensor, "n vocab"]] | None:
    """The examples as `change` makes them, `shares` [n, layer, ...] of these, and the logits that predict their
    answers; None without any.
    """
    made = changed(subject, batch, change)
    if made is None:
        return None
    kept: list[dict[str, Tensor | None]] = []
    with tracing(subject, lambda layer: kept.append(shares(layer, made.batch))):
        logits = subject.logits_at(made.batch, groups_of(made.batch).steps[:, 0])
    return made, stack_layers(kept), logits


def with_neutral_text(example: Example, tokenizer: Any, tokens: int) -> Example:
    """The example with as many tokens of neutral text in the place of its (first) image, marked; other images go."""
    text = _neutral(tokenizer, tokens)
    segments, placed = [], False
    for segment in example.segments:
        if segment.role != "image":
            segments.append(segment)
        elif not placed:
            segments.append(Segment("text", text, {STAND_IN: [(0, len(text))]}))
            placed = True
    return replace(example, segments=tuple(segments), boxes={})


def _neutral(tokenizer: Any, tokens: int) -> str:
    """NEUTRAL, repeated and cut behind so many tokens."""
    text = NEUTRAL * (1 + tokens // len(NEUTRAL.split()))
    ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text[: ends[min(tokens, len(ends)) - 1][1]]
