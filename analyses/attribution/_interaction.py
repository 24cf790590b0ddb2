"""INTER's interaction: what picture and question say of a word together that neither says alone, step by step.

I = l(V, T) − l(V̸, T) − l(V, T̸) + l(V̸, T̸) of log-probabilities, which have no free constant as logits do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from ...data.example import Example
from ...probes.model.head import in_rows
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting
from .. import metrics
from ..common import controls
from ..common.changed import Change, changed
from ..common.controls import IMAGE, QUESTION, another_image, another_question

TOP = 5  # words whose mean interaction stands beside its variance over all of them
NOISE, NO_QUESTION = "a picture of noise", "no question"
WITHOUT = ((IMAGE, QUESTION), (NOISE, NO_QUESTION))  # what stands for no picture and no question; the paper's last
NUMBERS = ("answer", "wrong", "top", "variance")


def interaction_rows(subject: Any, batch: Batch, questions: Sequence[str]) -> dict[str, Tensor]:
    """Rows "interaction|<number>|<what stands for no picture>" [b, steps] of the steps of an answer: of its tokens, of
    the first wrong answer's first token (the first step alone), the mean of the TOP likeliest words, and the variance
    over all of the logits' interaction. NaN where an example has no other picture or question. None of texts.

    questions: others, of which each example takes one.
    """
    if not bool(batch.where("image").any()):
        return {}
    steps = predicting(batch)
    plain, ids = _states(subject, batch), _wanted(subject, batch, steps)
    rows: dict[str, Tensor] = {}
    for no_image, no_question in WITHOUT:
        blind, mute = _without_image(no_image), _without_question(no_question, questions)
        found = [
            _changed(subject, batch, partial(_in_turn, some), plain) for some in ((blind,), (mute,), (blind, mute))
        ]
        there = (steps >= 0) & torch.stack([~one[..., 0].isnan() for one in found]).all(0)
        whole = torch.full((*steps.shape, len(NUMBERS)), torch.nan)
        if bool(there.any()):
            parts = (plain[there], *(one[there] for one in found), ids[there])
            whole[there] = in_rows(partial(_read, subject), subject.model, *(part.to(subject.device) for part in parts))
        rows |= {f"interaction|{name}|{no_image}": whole[..., i] for i, name in enumerate(NUMBERS)}
    return rows


def _states(subject: Any, batch: Batch) -> Float[Tensor, "b s d"]:
    """The last state at the positions that predict the answer."""
    kept: list[Tensor] = []
    steps = predicting(batch).clamp_min(0)

    def look(layer: Layer) -> None:
        if layer.index == layer.stack.n_layers - 1:
            at = steps.to(layer.resid_post.device)[..., None].expand(-1, -1, layer.resid_post.shape[-1])
            kept.append(layer.resid_post.gather(1, at).cpu())

    with torch.no_grad(), tracing(subject, look):
        subject.forward(batch)
    return kept[0]


def _changed(subject: Any, batch: Batch, change: Change, like: Tensor) -> Float[Tensor, "b s d"]:
    """`_states` of the examples as `change` makes them, in the shape of those; NaN where it gives None."""
    made = changed(subject, batch, change)
    if made is None:
        return torch.full_like(like, torch.nan)
    found = _states(subject, made.batch)
    return made.spread(pad(found, (0, 0, 0, like.shape[1] - found.shape[1]), value=torch.nan))


def _wanted(subject: Any, batch: Batch, steps: Int[Tensor, "b s"]) -> Int[Tensor, "b s 2"]:
    """Ids of the answer's token at each step and of the first wrong answer's, -1 where there is none. A prompt that
    ends open asks for its answer's first token.
    """
    ids = torch.full((*steps.shape, 2), -1)
    spoken = batch.where("answer").any(1)
    for row, example in enumerate(batch.examples):
        real = steps[row] >= 0
        if bool(spoken[row]):
            ids[row, real, 0] = batch.inputs["input_ids"][row].cpu()[steps[row][real] + 1]
        elif example.answer:
            ids[row, 0, 0] = batch.first_token_of(example, example.answer)
        if not bool(spoken[row]) and example.wrong:
            ids[row, 0, 1] = batch.first_token_of(example, example.wrong[0])
    return ids


def _read(subject: Any, *parts: Tensor) -> Float[Tensor, "n numbers"]:
    """NUMBERS of some steps: parts are the four states [n, d] and ids [n, 2]."""
    *states, ids = parts
    logits = [subject.unembed(subject.norm(state.to(subject.dtype))).float() for state in states]
    whole = torch.stack([metrics.modality_interaction(*four).interaction for four in zip(*logits, strict=True)])
    full, no_image, no_text, neither = (one.log_softmax(-1) for one in logits)
    of_words = full - no_image - no_text + neither
    asked = of_words.gather(1, ids.clamp_min(0)).masked_fill(ids < 0, torch.nan)
    top = of_words.gather(1, full.topk(min(TOP, full.shape[1]), -1).indices).mean(1)
    return torch.stack([*asked.unbind(1), top, whole.var(1)], 1).cpu()


def _without_image(kind: str) -> Change:
    return another_image if kind == IMAGE else _noise


def _noise(example: Example) -> Example:
    """The example with a picture of noise of the same size for each of its own."""

    def drawn(own: Image.Image) -> Image.Image:
        rng = np.random.default_rng(crc32(f"{example.id} noise".encode()))
        return Image.fromarray(rng.integers(0, 256, (own.height, own.width, 3), np.uint8), "RGB")

    return controls.with_images(example, drawn)


def _without_question(kind: str, questions: Sequence[str]) -> Change:
    def other(example: Example) -> Example | None:
        drawn = controls.other_question(example, questions)
        return None if drawn is None else another_question(example, drawn)

    return other if kind == QUESTION else lambda example: another_question(example, "")


def _in_turn(changes: Sequence[Change], example: Example) -> Example | None:
    made: Example | None = example
    for change in changes:
        made = None if made is None else change(made)
    return made


def no_rows(rows: Mapping[str, Any]) -> bool:
    """Whether nothing of interaction was measured, as in tasks without pictures."""
    return not any(name.startswith("interaction|") for name in rows)
