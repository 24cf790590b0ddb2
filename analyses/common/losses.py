"""Losses of edited forwards at several positions of a prompt: of a text its next tokens, else its answer's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.intervene.interventions import Variant
from ...probes.intervene.positions import Positions, positions_of
from ...probes.intervene.proofs import verify_edit
from ...probes.intervene.readout import states_of_variants
from ...probes.intervene.recording import Recording
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
    next tokens of at most `most` positions, evenly spaced, of its first `within` tokens where that is given.
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
    count = min(most, last - start)
    spaced = torch.linspace(start, last - 1, count).round().int().tolist() if count else []
    return [(last, -1), *((at, ids[at + 1]) for at in spaced)]


def rows_before(asked: Scored, base: Recording) -> Positions:
    """The rows that decide what is read: in a causal model all up to the last place."""
    reached = torch.arange(base.mask.shape[1]) <= asked.places.amax(1, keepdim=True)
    return positions_of(reached.to(base.mask.device) & base.mask, base.last)


@torch.no_grad()
def read_losses(
    base: Recording, asked: Scored, variants: Sequence[Variant], where: Positions | None = None, prove: bool = True
) -> tuple[Float[Tensor, "v b read"], Float[Tensor, "v b d"]]:
    """Loss and top-1 of each variant, and its last position's state behind the final norm; an empty variant is the
    clean run. where: the rows that are computed, all by default. prove: of the last one's deepest layer, that it does
    something.
    """
    where = base.everywhere if where is None else where
    acting = [i for i, variant in enumerate(variants) if variant]
    clean = next(states_of_variants(base, where, [{0: ()}], asked.places))[1]
    values, features = (one.expand(len(variants), *one.shape).clone() for one in _readings(base, asked, clean))
    if acting and prove:
        verify_edit(base, where, [_one_layer(variants[acting[-1]])])
    chosen = [variants[i] for i in acting]
    for i, states in states_of_variants(base, where, chosen, asked.places):
        values[acting[i]], features[acting[i]] = _readings(base, asked, states)
    return values, features


def _readings(
    base: Recording, asked: Scored, states: Float[Tensor, "b n d"]
) -> tuple[Float[Tensor, "b read"], Float[Tensor, "b d"]]:
    normed = base.subject.norm(states)
    there = asked.targets >= 0
    rows = base.subject.unembed(normed[there.to(normed.device)]).float()
    targets = asked.targets[there].to(rows.device)
    loss = rows.logsumexp(-1) - rows.gather(1, targets[:, None])[:, 0]
    both = torch.stack([loss, (rows.argmax(-1) == targets).float()], -1).cpu()
    whole = torch.full((*there.shape, len(READ)), torch.nan)
    whole[there] = both
    return whole.nanmean(1), normed[:, 0].float().cpu()


def _one_layer(variant: Variant) -> Variant:
    layer = max(variant)
    return {layer: variant[layer]}
