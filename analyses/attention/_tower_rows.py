"""Where the patches of a vision tower look, block by block: to themselves, to the class token, near or far."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import UserError
from ...probes.model.stack import VISION
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch, one_by_one
from .. import metrics
from ..common.ragged import stacked
from ..common.squares import square

STATISTICS = metrics.BlockStatistics._fields
OF_CLASS = tuple(name for name in STATISTICS if "cls" in name)
HOPS = 32  # Chebyshev distances on the grid, the last one with all beyond
UPDATES = ("attention", "MLP")


def tower_rows(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """By example, mean over its pictures (or tiles): STATISTICS and "distance" [b, layer, h], "hops" [b, layer, h,
    HOPS]: attention of a patch on patches so far away, without the class token; "even|…" [b] and "even|hops" [b, HOPS]:
    of uniform attention; "update" [b, layer, UPDATES]: norm over that of the residual.

    UserError: no vision tower, an example without an image, patches that are on no square grid of their own.
    """
    if subject.vision is None:
        raise UserError(
            f"{subject.name} has no vision tower: tower_profile needs a vision-language model (--subject scenes)"
        )
    missing = ~batch.where("image").any(1)
    if bool(missing.any()):
        name = batch.example_ids[int(missing.nonzero()[0])]
        raise UserError(f"example {name} has no image: tower_profile needs a task with pictures (--task scenes)")
    return stacked([_of_example(subject, one) for one in one_by_one(subject, batch)])


def _of_example(subject: Any, batch: Batch) -> dict[str, Tensor]:
    found: list[dict[str, Tensor]] = []
    sides: list[tuple[int, bool]] = []

    def keep(layer: Layer) -> None:
        n = layer.resid_pre.shape[1]
        sides.append(_grid(subject, n))
        found.append(_of_layer(layer, *sides[-1]))

    with tracing(subject, keep, stack=VISION):
        subject.forward(batch)
    rows = {name: torch.stack([one[name] for one in found]) for name in found[0]}
    return rows | {f"even|{name}": value for name, value in even(*sides[0]).items()}


def _grid(subject: Any, n: int) -> tuple[int, bool]:
    """The side of the grid of patches, and whether a class token stands before them."""
    found = square(n)
    if found is not None:
        return found
    raise UserError(
        f"{subject.name}: a row of its vision tower has {n} positions, which are no square grid of patches with or "
        "without a class token (pictures that are packed or of any shape): tower_profile cannot tell how far patches "
        "are apart"
    )


def _of_layer(layer: Layer, side: int, has_class: bool) -> dict[str, Tensor]:
    each = [_of_picture(pattern, side, has_class) for pattern in layer.pattern()]
    means = {name: torch.stack([one[name] for one in each]).mean(0).cpu() for name in each[0]}
    middle = layer.resid_post - layer.mlp_out
    ratios = [
        metrics.update_ratio(update.norm(dim=-1), state.norm(dim=-1)).mean()
        for update, state in ((layer.attn_out, layer.resid_pre), (layer.mlp_out, middle))
    ]
    return means | {"update": torch.stack(ratios).float().cpu()}


def _of_picture(pattern: Float[Tensor, "h n n"], side: int, has_class: bool) -> dict[str, Tensor]:
    whole = pattern if has_class else torch.nn.functional.pad(pattern, (1, 0, 1, 0))
    found = dict(zip(STATISTICS, metrics.block_statistics(whole), strict=True))
    if not has_class:
        found |= {name: torch.full_like(found[name], torch.nan) for name in OF_CLASS}
    patches = whole[:, 1:, 1:]
    shares = patches / patches.sum(-1, keepdim=True).clamp_min(1e-12)
    by_hop = _by_hop(shares, side)
    return found | {"hops": by_hop, "distance": (by_hop * torch.arange(HOPS, device=by_hop.device)).sum(-1)}


def _by_hop(shares: Float[Tensor, "*h n n"], side: int) -> Float[Tensor, "*h hops"]:
    """Mean over patches of the attention on those at each distance."""
    apart = distances(side).to(shares.device).flatten()
    total = shares.new_zeros(*shares.shape[:-2], HOPS)
    return total.index_add_(-1, apart, shares.flatten(-2)) / shares.shape[-1]


@lru_cache(maxsize=8)
def distances(side: int) -> Int[Tensor, "n n"]:
    """Chebyshev distance of every two patches, at most HOPS − 1."""
    at = torch.arange(side)
    row, column = at.repeat_interleave(side), at.repeat(side)
    apart = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
    return apart.clamp_max(HOPS - 1)


@lru_cache(maxsize=8)
def even(side: int, has_class: bool) -> dict[str, Tensor]:
    """Of attention that is alike on all tokens: borders counted, as patches there have fewer near neighbours."""
    n = side**2
    tokens = n + has_class
    found = _of_picture(torch.full((1, tokens, tokens), 1 / tokens), side, has_class)
    return {name: value[0] for name, value in found.items()}
