"""What highlighting does to text of which nothing is asked: the loss of novels with a random stretch highlighted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ...data.tasks import passages
from ...probes.intervene.recording import record
from ...probes.prompts.batch import Batch
from ..common.controls import HEADS, Head, example_keys, random_circuits, random_spans
from ..common.key_weights import highlighting
from ..common.losses import Losses, scored
from ._highlighted import from_the_span_on

TOKENS, AT_ONCE = 64, 8  # of a passage; passages in a batch
PLAIN, OURS, ALL = "nothing", "chosen heads", "every head"


def neutral_losses(
    subject: Any, heads: Sequence[Head], length: int, options: Any
) -> tuple[list[str], dict[str, list[float]]]:
    """Documents of the passages, and their losses: as the model is, and at the smallest alpha with a random stretch of
    `length` tokens highlighted in `heads`, in every head, in random heads of the same layers (mean over draws).
    """
    if not options.neutral:
        return [], {}
    made = passages.examples(options.neutral, 1, tokenizer=subject.tokenizer, tokens=TOKENS)
    losses: dict[str, list[float]] = {}
    for start in range(0, len(made), AT_ONCE):
        batch = subject.batch(made[start : start + AT_ONCE], template=passages.TEMPLATE, bos=passages.BOS)
        for name, values in _losses(subject, batch, heads, length, options).items():
            losses.setdefault(name, []).extend(values.tolist())
    return [example.group for example in made], losses


def _losses(subject: Any, batch: Batch, heads: Sequence[Head], length: int, options: Any) -> dict[str, Tensor]:
    base, alpha = record(subject, batch), min(options.alphas)
    span = _in_the_first_half(batch, length)
    drawn = random_circuits(heads, subject.n_heads, options.draws)
    rows = from_the_span_on(span, base.mask)
    variants = [highlighting(subject, base.mask, span, alpha, some, rows) for some in (heads, None, *drawn)]
    values = Losses(base, scored(batch, TOKENS)).read([{}, *variants])[0][..., 0]
    none = torch.full(values.shape[1:], torch.nan)
    return {PLAIN: values[0], OURS: values[1], ALL: values[2], HEADS: values[3:].mean(0) if drawn else none}


def _in_the_first_half(batch: Batch, length: int) -> Bool[Tensor, "b p"]:
    """A random stretch behind the first `length` tokens, so that most of the text can read it."""
    place = batch.mask.cumsum(1) - 1
    first = batch.mask & (place < length)
    half = batch.mask & (place < batch.mask.sum(1, keepdim=True) // 2)
    return random_spans(first, half, example_keys(batch.example_ids, 0))
