"""What the model answers under a repair, as numbers; and what a repair costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...data.object_words import count
from ...probes.observe.generation import generate_answers
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How
from ..common import hallucination
from ..common.controls import example_keys
from ._replayed import differences
from ._tables import NONE, Variant
from ._variants import variants

# Of a repair: its name, seconds a token, their ratio to the plain model's, the ratio's quartiles.
Cost = tuple[str, float, float, float, float]


def cost(subject: Any, batch: Batch, how: How, rounds: int = 5) -> list[Cost]:
    """Seconds a token of greedy generation (its prompt included), and its ratio to the plain model's, quartiles beside.

    Interleaved rounds on up to 8 examples; the first round is not counted.
    """
    few = subject.batch(batch.examples[:8], **{**batch.form, "padding": "left"})
    known = [v for v in variants(how.options, how.learned) if not v.control and v.repair in (NONE, "ACT", "VAR", "VHR")]
    firsts = {v.repair: v for v in reversed(known)}
    times: dict[str, list[float]] = {name: [] for name in (NONE, *sorted(set(firsts) - {NONE}))}
    for turn in range(rounds + 1):
        for name in times:
            with firsts[name].open(subject, 0):
                start = perf_counter()
                _generate_exactly(subject, few, how.options.timed)
                took = (perf_counter() - start) / how.options.timed
            if turn:
                times[name].append(took)
    rows = []
    for name, took in times.items():
        ratios = np.array(took) / np.array(times[NONE])
        low, high = np.quantile(ratios, [0.25, 0.75])
        rows.append((name, float(np.median(took)), float(np.median(ratios)), float(low), float(high)))
    return rows


def _generate_exactly(subject: Any, batch: Batch, tokens: int) -> None:
    """So many tokens for every example, end or no end."""
    subject.model.generate(
        **{k: v.to(subject.device) if isinstance(v, Tensor) else v for k, v in batch.inputs.items()},
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=subject.tokenizer.pad_token_id or 0,
    )


def asks_captions(examples: Iterable[Example]) -> bool:
    """Whether the examples ask for captions (their objects are known) or for one token. UserError: both."""
    kinds = {example.objects is not None for example in examples}
    if len(kinds) > 1:
        raise UserError("repairs measures captions or single answers: run them as two tasks")
    return kinds.pop()


def answered(
    subject: Any, batch: Batch, variants: Sequence[Variant], options: Any
) -> Iterator[tuple[Variant, Tensor, Any]]:
    """Every variant's numbers [b, draws, m], and what its last draw's repair has found."""
    read = not asks_captions(batch.examples) and options.pope == "logits"
    replayed = [v for v in variants if read and v.how.get("image") != "masked"]
    for variant, gap, made in differences(subject, batch, replayed):
        yield variant, _said(batch, gap), made
    for variant in variants:
        if variant not in replayed:
            yield variant, *answered_under(subject, batch, variant, options)


def answered_under(subject: Any, batch: Batch, variant: Variant, options: Any) -> tuple[Tensor, Any]:
    """The same of one variant, a whole forward or a generation a draw."""
    measure = _captioned if asks_captions(batch.examples) else _read if options.pope == "generated" else _answered
    parts, made = [], None
    for draw in range(variant.draws):
        with variant.open(subject, example_keys(batch.example_ids, draw)) as opened:
            parts.append(measure(subject, batch, options))
        made = opened
    return torch.stack(parts, 1), made


def chosen_heads(subject: Any, batch: Batch, made: Any) -> Tensor:
    chosen = torch.zeros(len(batch.examples), subject.n_layers, subject.n_heads)
    for layer, heads in made.heads.items():
        chosen[:, layer] = heads.float().cpu()
    return chosen


def _answered(subject: Any, batch: Batch, options: Any) -> Tensor:
    """[b, 3]: right, yes, lead; by the logits of the two answers."""
    logits = subject.last_logits(batch).float().cpu()
    gap = logits.gather(1, batch.answers[:, None]) - logits.gather(1, batch.wrong[:, None])
    return _said(batch, gap)[:, 0]


def _said(batch: Batch, gap: Tensor) -> Tensor:
    """[b, draws, 3]: right, yes (NaN where it is neither yes nor no), and the lead itself; gap: right logit − wrong
    logit, [b, draws].
    """
    yes = {"yes": 1.0, "no": 0.0}
    right = gap > 0
    words = [[word.strip().lower() for word in (example.answer, example.wrong[0])] for example in batch.examples]
    told = torch.tensor([[yes.get(a, np.nan), yes.get(b, np.nan) if a in yes else np.nan] for a, b in words])
    return torch.stack([right.float(), torch.where(right, told[:, :1], told[:, 1:]), gap.float()], 2)


def _read(subject: Any, batch: Batch, options: Any) -> Tensor:
    """[b, 2]: right, yes; of generated answers. UserError: a question whose answer is neither yes nor no."""
    for example in batch.examples:
        if example.answer.strip().lower() not in ("yes", "no"):
            raise UserError(f"example {example.id}: --repairs.pope generated reads yes or no, not {example.answer!r}")
    left = subject.batch(batch.examples, **{**batch.form, "padding": "left"})
    yes = torch.tensor([hallucination.says_yes(said.text) for said in generate_answers(subject, left, options.tokens)])
    true = torch.tensor([example.answer.strip().lower() == "yes" for example in batch.examples])
    return torch.stack([yes == true, yes], 1).float()


def _captioned(subject: Any, batch: Batch, options: Any) -> Tensor:
    """[b, 5]: the counts of greedy captions."""
    left = subject.batch(batch.examples, **{**batch.form, "padding": "left"})
    said = generate_answers(subject, left, options.tokens)
    return torch.tensor([counts_of(example, a.text) for example, a in zip(batch.examples, said, strict=True)])


def counts_of(example: Any, text: str) -> list[float]:
    """COUNTS of one caption."""
    return [float(x) for x in (*count(text, example.objects), hallucination.word_count(text))]
