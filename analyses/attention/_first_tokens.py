"""Whole maps of a prompt's first tokens, one example after the other, and what they are held against."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import permutations
from ._profile_rows import queries_of


def of_first_tokens(layer: Layer, batch: Batch, length: int) -> Iterator[Float[Tensor, "h n n"]]:
    """Each example's map of its first `length` tokens, or of all that it has."""
    rows, counts = first_tokens(batch, length)
    rows = rows.to(layer.resid_pre.device)
    for own, at, n in zip(layer.pattern(rows), rows, counts, strict=True):
        yield own[:, :n][..., at[:n]]


@lru_cache(maxsize=2)  # every layer asks for the same
def first_tokens(batch: Batch, length: int) -> tuple[Int[Tensor, "b n"], list[int]]:
    """The positions of each example's first tokens, the last of a shorter one repeated, and how many it has."""
    place = queries_of(batch).place
    counts = [min(length, int(own.max()) + 1) for own in place]
    at = [(own >= 0).nonzero()[:, 0] for own in place]
    return torch.stack([own[torch.arange(length).clamp_max(n - 1)] for own, n in zip(at, counts, strict=True)]), counts


def sink_twin(maps: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Without the first column, rows renormalised; rows that give nothing to others stay 0."""
    rest = maps.clone()
    rest[..., 0] = 0.0
    return rest / rest.sum(-1, keepdim=True).clamp_min(1e-12)


def even_maps(n: int) -> Float[Tensor, "n n"]:
    """Uniform attention."""
    return metrics.uniform_pattern(metrics.causal_visibility(torch.ones(1, n, dtype=torch.bool)))[0, 0]


def with_shuffled_keys(maps: Float[Tensor, "h n n"], order: Int[Tensor, "length length"]) -> Float[Tensor, "h n n"]:
    """Each row's keys in another order, by which its sharpness stays. order: of this example, as `orders_of`."""
    n = maps.shape[-1]
    return maps.gather(-1, order[:n, :n].clamp_max(n - 1).to(maps.device).expand_as(maps)).tril()


@lru_cache(maxsize=2)
def orders_of(batch: Batch, length: int) -> Int[Tensor, "b n n"]:
    """For each of an example's first rows an order of the keys that it sees, of its own; the others behind them."""
    return torch.stack([_orders(name, length) for name in batch.example_ids])


def _orders(name: str, length: int) -> Int[Tensor, "n n"]:
    drawn = permutations(length, [f"{name} {row}" for row in range(length)])
    hidden = torch.arange(length)[None] > torch.arange(length)[:, None]
    return drawn.masked_fill(hidden, length).argsort(dim=-1, stable=True)
