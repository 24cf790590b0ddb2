"""What a model says: greedy continuations of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

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
    arguments = {k: v.to(subject.device) if isinstance(v, torch.Tensor) else v for k, v in batch.inputs.items()}
    end = subject.tokenizer.eos_token_id
    with torch.no_grad():
        made = subject.model.generate(
            **arguments, do_sample=False, max_new_tokens=max_tokens, eos_token_id=end, pad_token_id=end
        )
    return subject.tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
