"""Answers of several tokens: the place where right and wrong first differ, or the log probability of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...data.tokens import BEFORE, ids_behind, ids_in_text
from .encode import encode

if TYPE_CHECKING:
    from ..model.subject import Subject

AT_ONCE = 8  # prompts of a forward


def first_difference(
    subject: Subject, examples: Sequence[Example], *, template: str = "raw", bos: bool = True
) -> list[Example]:
    """The examples at the place where answer and first wrong answer differ: what they share stands behind the prompt.

    " New York" and " New Delhi" become " York" and " Delhi" behind "… New" (`Example.begun`, of role "answer"), in the
    corrupt twin as well; other wrong answers that do not share it are left out. Other examples stay as they are.
    UserError: an answer that is the beginning of the other.
    """
    return [_opened(subject, example, template, bos) for example in examples]


def _opened(subject: Subject, example: Example, template: str, bos: bool) -> Example:
    # Where both are one word, what compares them refuses; what reads the answer alone does not.
    if not (example.answer and example.wrong) or example.begun or example.answer == example.wrong[0]:
        return example
    apart = [ids_in_text(subject.tokenizer, word)[:1] for word in (example.answer, example.wrong[0])]
    if apart[0] != apart[1]:
        return example
    begun = _shared(subject, example, encode(subject, example, template, bos).text or BEFORE)
    if not begun:
        return example
    twin = example.corrupt
    return replace(_behind(example, begun), corrupt=None if twin is None else _behind(twin, begun))


def _shared(subject: Subject, example: Example, text: str) -> str:
    """The longest common beginning of both that is whole tokens behind the prompt; each has one more token."""
    words = example.answer, example.wrong[0]
    ids = [ids_behind(subject.tokenizer, text, word) or [] for word in words]
    count = next((i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), min(map(len, ids)))
    if count == 0:
        return ""
    if count == min(map(len, ids)):
        raise UserError(
            f"example {example.id}: {words[0]!r} and {words[1]!r} begin alike to the end of one: name others"
        )
    longest = next((i for i, (a, b) in enumerate(zip(*words, strict=False)) if a != b), min(map(len, words)))
    # A space belongs to the word behind it; some tokenizers do not tell where it is.
    ends = sorted(range(1, longest + 1), key=lambda end: (words[0][end - 1].isspace(), -end))
    tokenizer = subject.tokenizer
    whole = (words[0][:end] for end in ends if ids_behind(tokenizer, text, words[0][:end]) == ids[0][:count])
    found = next(whole, "")
    if not found:
        raise UserError(f"example {example.id}: what {words[0]!r} and {words[1]!r} share is no text of its own")
    return found


def _behind(example: Example, begun: str) -> Example:
    """The prompt with `begun` behind it, and answers without it."""

    def rest(word: str) -> str:
        return word[len(begun) :] if word.startswith(begun) else word

    wrong = tuple(rest(word) for word in example.wrong if word.startswith(begun))
    return replace(example, begun=begun, answer=rest(example.answer), wrong=wrong)


def several_tokens(subject: Subject, examples: Sequence[Example]) -> list[str]:
    """What the page has to say of answers that are not one token each."""
    asked = [e for e in examples if e.answer]
    long = [e for e in asked if e.begun or len(ids_in_text(subject.tokenizer, e.answer)) > 1]
    if not long:
        return []
    opened = sum(bool(e.begun) for e in asked)
    told = f"{len(long)} of {len(asked)} answers are several tokens: measured is the first token in which answer and "
    told += "first wrong answer differ"
    return [told + (f"; in {opened} what they share stands behind the prompt." if opened else ".")]


@torch.no_grad()
def summed_log_probability(
    subject: Subject, examples: Sequence[Example], words: Sequence[str], *, template: str = "raw", bos: bool = True
) -> Float[Tensor, " n"]:
    """log p of a whole continuation behind each prompt: the sum over its tokens, nats, ≤ 0.

    words: one for each example, as `Example.answer` is written. UserError: one that joins the end of its prompt.
    """
    if len(words) != len(examples):
        raise ValueError(f"{len(words)} words for {len(examples)} examples: one each is needed")
    sums = []
    for start in range(0, len(examples), AT_ONCE):
        some = list(zip(examples[start : start + AT_ONCE], words[start : start + AT_ONCE], strict=True))
        prompts = subject.batch([example for example, _ in some], template=template, bos=bos)
        counts = [len(prompts.ids_of(example, word)) for example, word in some]
        whole = [replace(example, begun=example.begun + word) for example, word in some]
        batch = subject.batch(whole, template=template, bos=bos)
        log_p = subject.forward(batch, keep=0).float().log_softmax(-1).cpu()
        for row, (count, last) in enumerate(zip(counts, batch.last.tolist(), strict=True)):
            ids = batch.inputs["input_ids"][row, last - count + 1 : last + 1]
            sums.append(log_p[row, last - count : last].gather(1, ids[:, None]).sum())
    return torch.stack(sums)
