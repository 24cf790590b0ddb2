"""Losses of edited forwards at several positions of a prompt: of a text its next tokens, else its answer's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.intervene.interventions import Variant
from ...probes.intervene.positions import Positions, positions_of
from ...probes.intervene.proofs import verify_edit
from ...probes.intervene.readout import states_of_variants
from ...probes.intervene.recording import Recording
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting

READ = ("loss", "top-1")


class Scored(NamedTuple):
    """places Int[b, n]: the positions that are read, the last one first. targets Int[b, n]: the token that should
    follow, −1 where none is asked.
    """

    places: Int[Tensor, "b n"]
    targets: Int[Tensor, "b n"]


def scored(batch: Batch, most: int, within: int | None = None) -> Scored:
    """Of a prompt with an answer its tokens, of an open one the first token of the answer; of a text without any the
    next tokens (words, not pictures) of at most `most` positions, evenly spaced.

    within: of a text its first so many tokens are read, all by default.
    """
    rows = [_scored(batch, i, most, within) for i in range(len(batch.examples))]
    width = max(map(len, rows))
    whole = [[*row, *[(row[0][0], -1)] * (width - len(row))] for row in rows]
    return Scored(*torch.tensor(whole).unbind(2))


def _scored(batch: Batch, i: int, most: int, within: int | None) -> list[tuple[int, int]]:
    ids, start, last = batch.inputs["input_ids"][i].tolist(), int(batch.start[i]), int(batch.last[i])
    answer, example = batch.where("answer")[i], batch.examples[i]
    if bool(answer.any()):
        places = predicting(batch)[i]
        return [(last, -1), *((int(at), ids[int(at) + 1]) for at in places[places >= 0])]
    if example.answer:
        return [(last, batch.first_token_of(example, example.answer))]
    last = last if within is None else min(last, start + within - 1)
    told = [at for at in range(start, last) if not bool(batch.where("image")[i, at + 1])]
    spaced = torch.linspace(0, len(told) - 1, min(most, len(told))).round().int().tolist()
    return [(last, -1), *((told[k], ids[told[k] + 1]) for k in spaced)]


def rows_before(asked: Scored, base: Recording) -> Positions:
    """The rows that decide what is read: in a causal model all up to the last place."""
    reached = torch.arange(base.mask.shape[1]) <= asked.places.amax(1, keepdim=True)
    return positions_of(reached.to(base.mask.device) & base.mask, base.last)


class Losses:
    """What variants of one recording do to its losses. where: the rows that are computed, all by default."""

    def __init__(self, base: Recording, asked: Scored, where: Positions | None = None) -> None:
        self.base, self.asked = base, asked
        self.where = base.everywhere if where is None else where

    @torch.no_grad()
    def read(
        self, variants: Sequence[Variant], prove: bool = True
    ) -> tuple[Float[Tensor, "v b read"], Float[Tensor, "v b d"]]:
        """Loss and top-1 of each variant, and its last position's state behind the final norm; an empty variant is the
        clean run. prove: of the last one's deepest layer, that it does something.
        """
        acting = [i for i, variant in enumerate(variants) if variant]
        values, features = (one.expand(len(variants), *one.shape).clone() for one in self._clean)
        if acting and prove:
            verify_edit(self.base, self.where, [_one_layer(variants[acting[-1]])])
        for i, states in self._states([variants[i] for i in acting]):
            values[acting[i]], features[acting[i]] = self.readings(states)
        return values, features

    @cached_property
    def _clean(self) -> tuple[Tensor, Tensor]:
        """Of the whole model, replayed like the variants."""
        ((_, states),) = self._states([{0: ()}])
        return self.readings(states)

    def _states(self, variants: Sequence[Variant]) -> Iterator[tuple[int, Float[Tensor, "b n d"]]]:
        return states_of_variants(self.base, self.where, variants, self.asked.places)

    def readings(self, states: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b read"], Float[Tensor, "b d"]]:
        """See `readings`."""
        return readings(self.base.subject, self.asked, states)


@torch.no_grad()
def of_forward(subject: Any, batch: Batch, asked: Scored) -> Float[Tensor, "b read"]:
    """READ of a whole forward, with whatever edits act in it."""
    states: list[Tensor] = []

    def keep(layer: Layer) -> None:
        if layer.index == subject.n_layers - 1:
            rows = torch.arange(len(asked.places), device=layer.resid_post.device)[:, None]
            states.append(layer.resid_post[rows, asked.places.to(rows.device)])

    with tracing(subject, keep):
        subject.forward(batch)
    return readings(subject, asked, states[0])[0]


def readings(
    subject: Any, asked: Scored, states: Float[Tensor, "b n d"]
) -> tuple[Float[Tensor, "b read"], Float[Tensor, "b d"]]:
    """Loss and top-1 of states behind the last layer at the places that are read; the last place's normed state."""
    normed, there = subject.norm(states), asked.targets >= 0
    rows = subject.unembed(normed[there.to(normed.device)]).float()
    targets = asked.targets[there].to(rows.device)
    loss = rows.logsumexp(-1) - rows.gather(1, targets[:, None])[:, 0]
    whole = torch.full((*there.shape, len(READ)), torch.nan)
    whole[there] = torch.stack([loss, (rows.argmax(-1) == targets).float()], -1).cpu()
    return whole.nanmean(1), normed[:, 0].float().cpu()


def _one_layer(variant: Variant) -> Variant:
    layer = max(variant)
    return {layer: variant[layer]}
