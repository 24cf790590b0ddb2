"""What position alone does to a head's scores: whether its mean query would pick the token before."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.sites import SITES
from .. import metrics
from ..common.places import text_without_first
from ._keys import other_pairs, pairs_are_halves

DISTANCES = 16  # a query's own place, the one before it, and so on


def read_distances(layer: Layer, batch: Batch) -> dict[str, Tensor | None]:
    """Rows of a layer, of text without each example's first token, NaN where rotary pairs are not found.

    "distances" [b, h, DISTANCES]: `metrics.score_by_distance`; "distances|permuted": with the keys' rotary pairs in
    another order.
    """
    if not layer.attends:
        return dict.fromkeys(("distances", "distances|permuted"))
    kept = text_without_first(batch).to(layer.rot_q.device)
    heads = layer.rot_q.shape[2]
    nothing = torch.full((len(kept), heads, DISTANCES), torch.nan)
    if not pairs_are_halves(layer) or not layer.stack.has(layer.index, SITES["k"]):
        return {"distances": nothing, "distances|permuted": nothing}
    found: dict[str, list[Tensor]] = {"distances": [], "distances|permuted": []}
    asked = torch.arange(DISTANCES, device=kept.device)
    for example, name in enumerate(batch.example_ids):
        rows = kept[example].nonzero()[:, 0]
        q, k = layer.q[example, rows].float(), layer.k[example, rows].float()
        turn = turned_by_one(q, layer.rot_q[example, rows].float(), rows)
        for key, keys in (("distances", k), ("distances|permuted", other_pairs(k, name))):
            found[key].append(metrics.score_by_distance(q, keys, turn, asked))
    return {name: torch.stack(rows).cpu() for name, rows in found.items()}


def turned_by_one(
    q: Float[Tensor, "n h d"], turned: Float[Tensor, "n h d"], places: Int[Tensor, "n"]
) -> Float[Tensor, "pair"]:
    """The angle that each rotary pair turns from one position to the next, told by queries before and behind the
    rotation; NaN where no two are neighbours.
    """
    beside = places[1:] - places[:-1] == 1
    if not bool(beside.any()):
        return q.new_full((q.shape[-1] // 2,), torch.nan)
    before, behind = (torch.complex(*x.double().unflatten(-1, (2, -1)).unbind(-2)) for x in (q, turned))
    at = (behind * before.conj()).sum(1)  # [n, pair]: of each position's angle
    return (at[1:] * at[:-1].conj())[beside].sum(0).angle().to(q)
