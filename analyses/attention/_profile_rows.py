"""Indicators of one layer's attention by example: sums over rows divided by their number, the first left out."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.observe.sums import DIAGONALS, Sums
from ...probes.prompts.batch import Batch
from .. import metrics

# By head. Each has its value of uniform attention under "even|…" [b].
INDICATORS = (
    "entropy",
    "twin entropy",
    "squares",
    "first",
    *(f"distance {d}" for d in range(DIAGONALS)),
    "before, twin",
)
LENGTHS = 12  # doublings of the position: a row of n keys is in bin ⌊log₂ n⌋
OF_LAYER = ("entropy of mean", "diversity")
NAMES = (*INDICATORS, "gap", "trivial", *OF_LAYER, "by length", "by length, twin")


class Queries(NamedTuple):
    """place [b, q]: how many real tokens come before; −1 at padding. behind: real and not the first one."""

    place: Int[Tensor, "b q"]
    behind: Bool[Tensor, "b q"]


@lru_cache(maxsize=4)  # every layer asks for the same
def queries_of(batch: Batch) -> Queries:
    place = torch.where(batch.mask, batch.mask.cumsum(1) - 1, -1)
    return Queries(place, place >= 1)


def indicators(layer: Layer, batch: Batch) -> dict[str, Tensor | None]:
    """INDICATORS, gap and trivial [b, h]; those of OF_LAYER [b]; by length [b, LENGTHS]: entropy over ln n, mean over
    heads and the rows of a bin. "even|…" [b]: the same of uniform attention. None without heads.
    """
    if not layer.attends:
        return dict.fromkeys((*NAMES, *(f"even|{name}" for name in (*INDICATORS, "trivial"))))
    sums, device = layer.sums, layer.resid_pre.device
    place, behind = (one.to(device) for one in queries_of(batch))
    seen = sums.seen.float().mean(1)  # of windows all heads of a layer see as many
    values, even = _by_row(sums, seen)
    found: dict[str, Tensor | None] = {}
    for name in INDICATORS:
        rows = behind & (place >= _from_place(name))
        found[name] = _mean(values[name], rows[:, None])
        found[f"even|{name}"] = _mean(even[name], rows)
    found["gap"] = 1 - sums.diagonals[..., 0].masked_fill(~behind[:, None], 0.0).amax(-1)
    found["entropy of mean"] = _mean(sums.head_mean_entropy, behind)
    found["diversity"] = (sums.spread_over_heads * behind).sum(1) / (seen * behind).sum(1)
    found["trivial"], found["even|trivial"] = _trivial(sums, seen, place)
    found["by length"] = _by_length(values["entropy"], even["entropy"], seen, behind)
    found["by length, twin"] = _by_length(values["twin entropy"], even["twin entropy"], seen, behind & (seen > 2))
    return found


def _from_place(name: str) -> int:
    """The first row that has such a key; the token before is not to be the first one, which twins leave out."""
    return {"before, twin": 2}.get(name, int(name[-1]) if name.startswith("distance") else 1)


def _by_row(sums: Sums, seen: Float[Tensor, "b q"]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of every query by head, and of uniform attention."""
    share = 1 / seen.clamp_min(1)
    twin = torch.where(seen > 1, (seen - 1).clamp_min(1).log(), torch.nan)
    values = {"entropy": sums.entropy, "twin entropy": sums.twin_entropy, "squares": sums.squares, "first": sums.first}
    even = {"entropy": seen.clamp_min(1).log(), "twin entropy": twin, "squares": share, "first": share}
    rest = sums.rest.masked_fill(sums.rest <= 0, torch.nan)
    values["before, twin"], even["before, twin"] = sums.diagonals[..., 1] / rest, 1 / (seen - 1).clamp_min(1)
    for d in range(DIAGONALS):
        values[f"distance {d}"], even[f"distance {d}"] = sums.diagonals[..., d], share
    return values, even


def _mean(values: Tensor, rows: Bool[Tensor, "..."]) -> Tensor:
    """Over the chosen rows that have a number; NaN without any."""
    known = rows & ~values.isnan()
    return (values.nan_to_num() * known).sum(-1) / known.sum(-1)


def _by_length(values: Tensor, even: Tensor, seen: Tensor, rows: Tensor) -> Float[Tensor, "b lengths"]:
    """Entropy over that of uniform attention, mean over heads and the rows whose number of keys is in the bin."""
    over = (values.mean(1) / even).masked_fill(~rows, torch.nan)
    bins = seen.clamp_min(1).log2().long().clamp_max(LENGTHS - 1)
    return torch.stack([_mean(over, bins == one) for one in range(LENGTHS)], 1)


def _trivial(sums: Sums, seen: Tensor, place: Tensor) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b"]]:
    """R² of own key, previous and first, all rows of the prompt; of uniform attention."""
    real = place >= 0
    column = torch.zeros_like(real).scatter_(1, (place == 0).int().argmax(1, keepdim=True), True)
    to_first = sums.uniform_mass(column[:, None])[..., 0].mean(1) > 0
    own, before, first = real, place >= 1, real & to_first
    both = (own & first & (place == 0)), (before & first & (place == 1))
    n, p, f, total = (one.double().sum(1) for one in (own, before, first, seen * real))
    none, own_first, before_first = torch.zeros_like(n), both[0].double().sum(1), both[1].double().sum(1)
    gram = torch.stack([n, none, own_first, n, none, p, before_first, p, own_first, before_first, f, f, n, p, f, total])
    gram = gram.T.reshape(-1, 4, 4)
    kinds = (sums.diagonals[..., 0], sums.diagonals[..., 1], sums.first, sums.first + sums.rest)
    moments = torch.stack([(one.double() * real[:, None]).sum(-1) for one in kinds], -1)
    squares = (sums.squares.double() * real[:, None]).sum(-1)
    share = torch.where(real, 1 / seen.clamp_min(1), 0.0).double()
    flat = torch.stack([share.sum(1), (share * before).sum(1), (share * first).sum(1), real.double().sum(1)], 1)
    r2 = metrics.trivial_r2(gram[:, None].expand(*moments.shape, 4), moments, squares)
    return r2.float(), metrics.trivial_r2(gram, flat, share.sum(1)).float()
