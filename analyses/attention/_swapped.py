"""What patterns do: a layer's replaced by another layer's or prompt's, by uniform attention; weak entries removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.intervene.interventions import EditAttention, Variant
from ...probes.intervene.positions import Positions
from ...probes.intervene.recording import record
from ...probes.model.attention import AttentionCall
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ..common.controls import RANDOM_ENTRIES, SHUFFLED_PROMPT, UNIFORM, permutations, shuffled_tokens
from ..common.losses import Losses, rows_before, scored

BELOW = "the layer below"
SWAPS = (BELOW, UNIFORM, SHUFFLED_PROMPT)
WEAK = 0.01  # attention below which an entry is removed
LONGEST = 2**14  # one order of so many places for each example, whatever its padding
REMOVED = ("weak entries", RANDOM_ENTRIES)
Edit = Callable[[AttentionCall, Positions], AttentionCall]


def swapped(subject: Any, batch: Batch, most: int, within: int) -> dict[str, Tensor]:
    """By example: "clean" [b], the loss; "cost|SWAP" [b, layer], how much more it is with the layer's patterns
    replaced, NaN where there is nothing to put; "removed" [b, REMOVED], with entries removed in all layers.
    """
    base, asked = record(subject, batch), scored(batch, most, within)
    own, other = _calls(subject, batch), _calls(subject, shuffled_tokens(batch))
    attending = [*own]
    sources = {(swap, layer): _source(swap, layer, own, other) for swap in SWAPS for layer in attending}
    plan = {place: source for place, source in sources.items() if source is not None}
    variants: list[Variant] = [
        {layer: (EditAttention(None, _edit(source, even=swap == UNIFORM)),)} for (swap, layer), source in plan.items()
    ]
    removing = [{layer: (EditAttention(None, edit),) for layer in attending} for edit in _removals(batch)]
    losses = Losses(base, asked, rows_before(asked, base))
    values = losses.read([{}, *variants, *removing], prove=False)[0][..., 0]
    clean = values[0]
    found = {"clean": clean, "removed": (values[1 + len(variants) :] - clean).T}
    for swap in SWAPS:
        cost = clean.new_full((len(clean), subject.n_layers), torch.nan)
        for at, (name, layer) in enumerate(plan):
            if name == swap:
                cost[:, layer] = values[1 + at] - clean
        found[f"cost|{swap}"] = cost
    return found


def _calls(subject: Any, batch: Batch) -> dict[int, AttentionCall]:
    """The calls of the layers that have attention, without their values: rotated q and k, from which patterns are."""
    kept: dict[int, AttentionCall] = {}

    def keep(layer: Layer) -> None:
        if layer.attends:
            kept[layer.index] = layer.attention

    with tracing(subject, keep):
        subject.forward(batch)
    return kept


def _source(
    swap: str, layer: int, own: dict[int, AttentionCall], other: dict[int, AttentionCall]
) -> AttentionCall | None:
    """The call whose pattern is put into a layer; None where there is none of its shape."""
    if swap == UNIFORM:
        return own[layer] if own[layer].sinks is None else None
    attending = [*own]
    place = attending.index(layer) - (swap == BELOW)
    if place < 0:
        return None
    found = (other if swap == SHUFFLED_PROMPT else own)[attending[place]]
    alike = found.query.shape == own[layer].query.shape and found.key.shape == own[layer].key.shape
    return found if alike else None


def _edit(source: AttentionCall, even: bool) -> Edit:
    """The pattern that a call's queries and keys make; even: alike on all keys in view."""

    def edit(call: AttentionCall, rows: Positions) -> AttentionCall:
        if even:
            return call.edited(query=torch.zeros_like(call.query), bias=None)
        query = rows.take(source.query.transpose(1, 2)).transpose(1, 2)
        # The bias is of positions, which all layers and prompts have alike; the call's is of its rows.
        return call.edited(query=query.to(call.query), key=source.key.to(call.key), scale=source.scale)

    return edit


def _removals(batch: Batch) -> Sequence[Edit]:
    """Entries of attention up to WEAK set to 0, and as many random ones in every row; rows renormalised."""
    place = (batch.mask.cumsum(1) - 1).clamp_min(0).cpu()
    drawn = [permutations(LONGEST, [name])[0] for name in batch.example_ids]
    ranks = torch.stack([one[at.clamp_max(LONGEST - 1)] for one, at in zip(drawn, place, strict=True)])

    def weak(pattern: Float[Tensor, "b h n k"], rows: Tensor, examples: slice) -> Tensor:
        return _renormalised(pattern, pattern <= WEAK)

    def random(pattern: Float[Tensor, "b h n k"], rows: Tensor, examples: slice) -> Tensor:
        count = ((pattern <= WEAK) & (pattern > 0)).sum(-1, keepdim=True)
        noise = ranks[examples].to(pattern.device)[:, None, None].expand_as(pattern)
        order = noise.masked_fill(pattern <= 0, LONGEST).argsort(-1).argsort(-1)
        return _renormalised(pattern, order < count)

    return [lambda call, rows, edit=edit: call.edited(pattern_edit=edit) for edit in (weak, random)]


def _renormalised(pattern: Tensor, removed: Tensor) -> Tensor:
    """Rows keep their sum; one of which all would go stays."""
    left = pattern.masked_fill(removed, 0.0)
    kept = left.sum(-1, keepdim=True)
    return torch.where(kept > 0, left * pattern.sum(-1, keepdim=True) / kept.clamp_min(1e-12), pattern)
