"""A recorded prompt of which some tokens are taken away: what attribution by path, occlusion or Shapley asks for.

A feature is a set of positions. Where it is present with weight w, what enters the first layer is w times the prompt's
own and 1 − w times what stands in for it; so gradients to w are those to embeddings, summed along the way between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...data.errors import UserError
from ..model.vision_inputs import media_ids
from ..observe.layer import Layer
from ..observe.tracing import tracing
from .attribution import frozen_weights
from .interventions import Patch, Variant
from .measures import Measure
from .positions import Positions, affected_positions, at_last
from .proofs import obstacle_of
from .readout import BUDGET, read_variants
from .recording import Recording
from .replay import replay_stacked_with_gradient

if TYPE_CHECKING:
    from ..model.subject import Subject

WORDS_AT_ONCE = 4096  # of the vocabulary, whose embeddings are averaged


@dataclass(frozen=True, eq=False, repr=False)
class Mixture:
    """One recorded prompt, [1, p], between itself and what stands in for its tokens.

    absent: [1, p, d], what enters the first layer where nothing of the prompt is present. features: the positions of
    each, Bool[f, p], none in two. measure: of the logits at the last position.
    """

    base: Recording
    absent: Float[Tensor, "1 p d"]
    features: Bool[Tensor, "f p"]
    measure: Measure

    def __repr__(self) -> str:
        return f"Mixture({len(self.features)} features of {self.features.shape[1]} positions)"

    def __post_init__(self) -> None:
        if len(self.base.mask) != 1:
            raise UserError(f"a mixture is of one prompt, the recording has {len(self.base.mask)}")
        if self.features.shape[1:] != self.base.mask.shape[1:] or bool((self.features.sum(0) > 1).any()):
            raise UserError(f"features {list(self.features.shape)}: a position of the prompt belongs to one at most")

    @torch.no_grad()
    def values(self, present: Float[Tensor, "v f"]) -> Float[Tensor, "v ..."]:
        """The measure of each variant, whose features are present with these weights (0…1). Exact: layers replayed.

        Those that lack the same stretch of the prompt run together, from its first position on.
        """
        first = [
            int((lacking > 0).int().argmax()) for lacking in (present.detach() < 1).float() @ self.features.float()
        ]
        found: dict[int, Tensor] = {}
        for start in sorted(set(first)):
            mine = [i for i, at in enumerate(first) if at == start]
            variants = [self._variant(present[i].detach()) for i in mine]
            values = read_variants(self.base, self._behind(start), variants, self.measure, BUDGET)[:, 0]
            found |= dict(zip(mine, values, strict=True))
        return torch.stack([found[i] for i in range(len(present))])

    @torch.enable_grad()
    def with_gradient(self, present: Float[Tensor, "v f"]) -> Float[Tensor, "v ..."]:
        """The same with a graph that leads back to the weights."""
        variants, subject = [self._variant(one) for one in present], self.base.subject
        with frozen_weights(subject.model):
            if obstacle_of(self.base):
                resid = torch.cat([self._forward(variant) for variant in variants])
            else:
                resid = replay_stacked_with_gradient(self.base, self._where, variants)[:, 0]
            logits = subject.unembed(subject.norm(resid)).float()
        return self.measure(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))

    @cached_property
    def _where(self) -> Positions:
        return affected_positions(self.base, self._changed)

    def _behind(self, start: int) -> Positions:
        later = torch.arange(self._changed.shape[1], device=self._changed.device) >= start
        return affected_positions(self.base, self._changed & later)

    @property
    def _changed(self) -> Bool[Tensor, "1 p"]:
        return self.features.any(0, keepdim=True).to(self.base.mask.device)

    def _variant(self, present: Float[Tensor, " f"]) -> Variant:
        return {0: (Patch("resid_pre", self._changed, self._entering(present)),)}

    def _entering(self, present: Float[Tensor, " f"]) -> Float[Tensor, "1 p d"]:
        own = self.base.layers[0].resid_pre
        lacking = (1 - present.to(own)) @ self.features.to(own)  # 0 at positions of no feature
        return (1 - lacking)[:, None] * own + lacking[:, None] * self.absent.to(own)

    def _forward(self, variant: Variant) -> Float[Tensor, "1 d"]:
        """The slow way: a whole forward with its graph."""
        (change,) = variant[0]
        last: list[Tensor] = []
        rewrites = {(0, "resid_pre"): partial(change.apply, where=self.base.everywhere)}  # type: ignore[union-attr]
        with tracing(self.base.subject, lambda layer: last.append(layer.resid_post), rewrites=rewrites):
            self.base.subject.forward(self.base.inputs, gradient=True)
        return at_last(last[-1], self.base.last)


@torch.no_grad()
def mean_word(subject: Subject) -> Float[Tensor, "d"]:
    """The mean embedding of all words, as the model's embeddings give them; placeholders of pictures are left out."""
    embed, ids = subject.model.get_input_embeddings(), _words(subject)
    total = sum(embed(some.to(subject.device)).float().sum(0) for some in ids.split(WORDS_AT_ONCE))
    return torch.as_tensor(total) / len(ids)


def _words(subject: Subject) -> Int[Tensor, " n"]:
    ids = torch.arange(len(subject.model.get_input_embeddings().weight))
    return ids[~torch.isin(ids, torch.tensor(media_ids(subject.model), dtype=torch.long))]


@torch.no_grad()
def entering_first(subject: Subject, embeddings: Float[Tensor, "1 p d"]) -> Float[Tensor, "1 p d"]:
    """What enters the first layer where a prompt's embeddings are these: with places, scale and norm of the family.

    UserError: a family that takes no embeddings in the place of tokens.
    """
    found: list[Tensor] = []

    def keep(layer: Layer) -> None:
        if layer.index == 0:
            found.append(layer.resid_pre)

    given = embeddings.to(subject.device, subject.dtype)
    mask: Any = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
    try:
        with tracing(subject, keep):
            subject.forward({"inputs_embeds": given, "attention_mask": mask})
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{subject.name} takes no embeddings in the place of tokens: {error}") from error
    return found[0]


def same_tokens(one: Recording, other: Recording) -> bool:
    """Whether two prompts are made of the same tokens, placeholders of pictures included."""
    return torch.equal(one.inputs["input_ids"], other.inputs["input_ids"])
