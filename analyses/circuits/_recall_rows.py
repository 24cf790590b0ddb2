"""What `recall` keeps of a prompt's last position: what movers and an MLP write, and what words read there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.intervene.direct_attribution import direct_attribution
from ...probes.intervene.positions import at_last
from ...probes.intervene.recording import Recording
from ...probes.model import anatomy
from ...probes.model.frozen_norms import affine, written_by_heads
from ...probes.model.head import head_parts, vocabulary
from ..common.contrast import Contrast
from ..common.controls import WORDS, Head, random_circuits, random_words

ANSWER, OTHER = "the answer", "the twin's answer"  # the twin: the same words about another subject
DRAWS = 5  # random sets of heads, whose outputs are kept like the movers'


@dataclass(frozen=True, eq=False)
class AboveMean:
    """A word's logit minus the mean over the vocabulary: what a softmax sees. words: Int[b, m], the mean over m."""

    words: Int[Tensor, "b m"]

    def direction(self, weight: Float[Tensor, "vocab d"]) -> Float[Tensor, "b d"]:
        own = weight[self.words.to(weight.device)].float().mean(1)
        return own - weight.mean(0, dtype=torch.float32)


def words_of(subject: Any, found: Contrast) -> dict[str, AboveMean]:
    """The answer, the twin's answer, and random words near the answer's id."""
    answers, foils = found.answers, found.measure.wrong
    size = vocabulary(subject.model)
    drawn = [
        [word for (word,) in random_words(subject.tokenizer, (own,), frozenset({own, other}), size)]
        for own, other in zip(answers.tolist(), foils.tolist(), strict=True)
    ]
    words = {ANSWER: answers[:, None], OTHER: foils[:, None], WORDS: torch.tensor(drawn)}
    return {name: AboveMean(ids) for name, ids in words.items()}


def readers(subject: Any, base: Recording, words: dict[str, AboveMean]) -> dict[str, Float[Tensor, "b d"]]:
    """Word -> what its logit reads of the last residual, the final norm's scale held as it is for each prompt."""
    weight, _, scale = head_parts(subject.model)
    norm = affine(subject.norm, base.resid)
    held = scale / norm.scale(base.resid)
    return {name: (norm.pull(one.direction(weight).to(held.device)) * held).cpu() for name, one in words.items()}


def written(subject: Any, base: Recording, heads: Sequence[Head]) -> Float[Tensor, "b k d"]:
    """What each of some heads adds to the last position's residual."""
    by_layer = {
        layer: written_by_heads(subject, layer, at_last(base.layers[layer].site("z"), base.last))[0].cpu()
        for layer in {layer for layer, _ in heads}
    }
    return torch.stack([by_layer[layer][:, head] for layer, head in heads], 1)


def of_mlp(subject: Any, base: Recording, layer: int) -> Float[Tensor, "b d"]:
    """What a layer's MLP adds to the last position's residual."""
    kept = at_last(base.layers[layer].site("mlp_out"), base.last)
    return anatomy.times(kept, anatomy.gain(subject.layers[layer], "mlp_out")).float().cpu()


def random_sets(subject: Any, heads: Sequence[Sequence[int]]) -> list[list[Head]]:
    """As many heads of the same layers, none a mover; none where the layers have no others."""
    return random_circuits([(layer, head) for layer, head in heads], subject.n_heads, DRAWS, "recall")


def copied_rows(subject: Any, base: Recording, learned: Any) -> dict[str, Tensor]:
    """ "movers" [b, k, d], "random" [b, draws, k, d] where there are others, and "mlp" [b, d]."""
    if not learned.heads:
        return {}
    rows = {"movers": written(subject, base, [(layer, head) for layer, head in learned.heads])}
    if drawn := random_sets(subject, learned.heads):
        rows["random"] = torch.stack([written(subject, base, one) for one in drawn], 1)
    return rows | {"mlp": of_mlp(subject, base, learned.mlp)}


def direct_rows(subject: Any, base: Recording, words: dict[str, AboveMean]) -> dict[str, Tensor]:
    """ "head|direct|<word>" [b, layer, head] and "mlp|direct|<word>" [b, layer]: logits above the vocabulary's mean."""
    rows = {}
    for name in (ANSWER, OTHER):
        parts = direct_attribution(subject, base, words[name])
        rows[f"head|direct|{name}"] = parts.heads.movedim(-1, 0)
        rows[f"mlp|direct|{name}"] = parts.mlps.movedim(-1, 0)
    return rows
