"""What a sweep reads of the logits: `measure(logits [n, vocab], example Int[n]) -> [n]` (or [n, m] for m numbers).

`logits` are those at the last real position, `example` says which of the batch each belongs to. A measure that is
linear in the logits also has `direction(weight [vocab, d]) -> [b, d]`, of weights in the model's own dtype: the sweep
then reads one direction of the residual stream and not the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class _Difference:
    correct: Int[Tensor, " b"]
    wrong: Int[Tensor, " b"]

    def __call__(self, logits: Float[Tensor, "n vocab"], example: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        correct, wrong = (ids.to(logits.device)[example] for ids in (self.correct, self.wrong))
        return logits.gather(1, correct[:, None])[:, 0] - logits.gather(1, wrong[:, None])[:, 0]

    def direction(self, weight: Float[Tensor, "vocab d"]) -> Float[Tensor, "b d"]:
        # Rows first, then float32: the whole unembedding may be gigabytes.
        return weight[self.correct.to(weight.device)].float() - weight[self.wrong.to(weight.device)].float()


def logit_difference(correct: Int[Tensor, " b"], wrong: Int[Tensor, " b"]) -> _Difference:
    """logit[correct] − logit[wrong] (arXiv 2310.08744), one pair of token ids per example; linear."""
    return _Difference(correct, wrong)


def probability(ids: Int[Tensor, " b"]) -> Measure:
    """The probability of one token per example, in [0, 1] (arXiv 2411.18620)."""

    def measure(logits: Float[Tensor, "n vocab"], example: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        chosen = ids.to(logits.device)[example]
        return (logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1)).exp()

    return measure


def kl(reference_logits: Float[Tensor, "b vocab"]) -> Measure:
    """KL(reference ‖ changed) of the next-token distributions, nats, ≥ 0."""
    log_p = reference_logits.float().log_softmax(-1)

    def measure(logits: Float[Tensor, "n vocab"], example: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        expected = log_p.to(logits.device)[example]
        return (expected.exp() * (expected - logits.log_softmax(-1))).sum(-1)

    return measure
