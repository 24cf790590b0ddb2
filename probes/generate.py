"""What a model says: greedy continuations of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import answers

if TYPE_CHECKING:
    from .batch import Batch
    from .subject import Subject


def generate(subject: Subject, batch: Batch, *, max_tokens: int = 32) -> list[str]:
    """Each prompt's greedy continuation up to the end token, as text without special tokens.

    ValueError: a padded batch that is not padded on the left, where continuations would not join their prompts.
    """
    ids = batch.inputs["input_ids"]
    if bool((batch.last < ids.shape[1] - 1).any()):
        raise ValueError("generate needs left padding: subject.batch(examples, padding='left')")
    return [answer.text for answer in answers.generate(subject, batch, max_tokens)]
