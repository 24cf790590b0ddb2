"""The logits of an answer and of the wrong options at a prompt's end, as a measure of a sweep; what is read of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import UserError
from ...probes.prompts.batch import Batch


def wrong_options(batch: Batch) -> Int[Tensor, "b m"]:
    """First tokens of each example's wrong answers, −1 where it has fewer than another."""
    return filled([[batch.first_token_of(e, w) for w in e.wrong] for e in batch.examples])


def filled(rows: Sequence[Sequence[int]]) -> Int[Tensor, "b m"]:
    """Tokens of every example, −1 where it has fewer than another."""
    width = max(map(len, rows))
    return torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in rows])


class OptionLogits:
    """A measure: the logits of the answer and of the wrong options, [n, 1 + m]; −∞ where an option is missing."""

    def __init__(self, answers: Int[Tensor, "b"], options: Int[Tensor, "b m"]) -> None:
        self.answers, self.options = answers, options

    @classmethod
    def of(cls, batch: Batch, analysis: str) -> OptionLogits:
        """Of a batch. UserError: an example without a wrong answer."""
        bare = [example.id for example in batch.examples if not example.wrong]
        if bare:
            raise UserError(f"{analysis}: example {bare[0]} has no wrong answer: a logit difference needs one")
        return cls(batch.answers, wrong_options(batch))

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        ids = torch.cat([self.answers[:, None], self.options], 1).to(logits.device)[rows.to(logits.device)]
        return logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)


def lead(logits: Float[Tensor, "*batch options"]) -> Float[Tensor, "*batch"]:
    """Answer − mean of the wrong options."""
    wrong = logits[..., 1:]
    there = wrong.isfinite()
    return logits[..., 0] - wrong.where(there, 0.0).sum(-1) / there.sum(-1)


def is_right(logits: Float[Tensor, "*batch options"]) -> Float[Tensor, "*batch"]:
    """1 where the answer is above every wrong option, else 0."""
    return (logits[..., :1] > logits[..., 1:]).all(-1).float()


def guessing(options: Int[Tensor, "b m"]) -> Float[Tensor, "b"]:
    """The share that guessing among the options gets right."""
    return 1 / (1 + (options >= 0).sum(1)).float()
