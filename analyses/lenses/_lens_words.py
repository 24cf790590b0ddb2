"""The words that an Attention Lens learns maps for: all, or of a large vocabulary those that the corpus shows most.

Training holds a map, its gradient and Adam's two moments for every word. Where they do not fit into BUDGET, the words
that are likeliest in the model's mean output have maps of their own, and all others together have one, for their summed
probability; among themselves they keep the shares of the start. With these shares held,

    KL over the vocabulary = KL over the words and "others" + what no map changes,

so what is learned is learned with the exact gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.progress import tracked
from ...probes.model.head import along_words, few_words, head_parts, of_words, rows_at_once, vocabulary
from ..common.descent import Weights

BUDGET = 2**29  # bytes of maps, gradients and moments of one layer
# The log-probabilities [rows, words] that a lens is learned towards, at some rows of the corpus.
Target = Callable[[Tensor], Tensor]


class Chosen(NamedTuple):
    """words: ids, in order. log_sums: the log-sum-exp over the vocabulary of the model's logits, by position."""

    words: Int[Tensor, " words"]
    log_sums: Float[Tensor, " n"]

    def target(self, subject: Any, final: Float[Tensor, "n d"]) -> Target:
        """Log-probabilities of the words, and of all others together."""
        unembed = of_words(subject.model, self.words)

        @torch.no_grad()
        def target(rows: Tensor) -> Tensor:
            log_p = unembed(subject.norm(final[rows])) - self.log_sums[rows][:, None]
            others = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(1e-30)
            return torch.cat([log_p, others.log()], -1)

        return target


def whole_target(subject: Any, final: Float[Tensor, "n d"]) -> Target:
    """Log-probabilities of all words."""

    @torch.no_grad()
    def target(rows: Tensor) -> Tensor:
        return subject.unembed(subject.norm(final[rows])).float().log_softmax(-1)

    return target


def fitting(subject: Any, layers: list[int]) -> int:
    """For how many words maps are learned, 0 for all: by the widest of the layers."""
    width = max((subject.W_O(layer).shape[:2].numel() for layer in layers), default=1)
    count = BUDGET // (4 * 4 * width)
    return 0 if count >= vocabulary(subject.model) else count


@torch.no_grad()
def choose(subject: Any, count: int, marginal: Float[Tensor, " vocab"], final: Float[Tensor, "n d"]) -> Chosen:
    """The `count` likeliest words of the model's mean output."""
    parts = final.split(rows_at_once(vocabulary(subject.model)))
    said = (subject.unembed(subject.norm(x)) for x in tracked(parts, "the corpus over the whole vocabulary", "parts"))
    log_sums = torch.cat([logits.float().logsumexp(-1) for logits in said])
    return Chosen(marginal.topk(count).indices.sort().values, log_sums)


def with_others(subject: Any, weights: Weights, z: Float[Tensor, "n h d_head"]) -> Weights:
    """The start with one word more: the others' log-sum-exp, to first order about the mean z."""
    mean = z.float().mean(0)
    logits = _of_all(subject, weights, mean[None])[0]
    share, (weight, _, scale) = logits.softmax(-1), head_parts(subject.model)
    parts = zip(share.split(len(few_words(weight)[0])), few_words(weight), strict=True)
    direction = torch.stack([some @ rows.float() for some, rows in parts]).sum(0) * scale
    column = weights["map"] @ direction
    bias = logits.logsumexp(-1) - (column * mean).sum()
    grown = {"weight": torch.cat([weights["weight"], column[..., None]], -1)}
    return weights | grown | {"bias": torch.cat([weights["bias"], bias[None]])}


def spread(
    subject: Any, weights: Weights, said: Float[Tensor, "n words"], z: Float[Tensor, "n h d_head"]
) -> Float[Tensor, "n vocab"]:
    """Logits of all words, of those of the words and of the others together."""
    whole = _of_all(subject, weights, z).log_softmax(-1) + said[:, -1:]
    whole[:, weights["words"]] = said[:, :-1]
    return whole


def _of_all(subject: Any, weights: Weights, z: Float[Tensor, "n h d_head"]) -> Float[Tensor, "n vocab"]:
    """What the start says of the others; −inf for the words with maps of their own."""
    states = z.float().flatten(1) @ weights["map"].flatten(0, 1) + weights["shift"]
    logits = along_words(subject.model, states)
    logits = logits if subject.b_U is None else logits + subject.b_U.float()
    return logits.index_fill(1, weights["words"], -torch.inf)
