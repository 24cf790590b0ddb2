"""What needs whole maps, of a prompt's first tokens: ranks, how far heads are apart, the law of ln A; with controls."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import permutations
from ..common.ragged import stacked
from ._profile_rows import queries_of

SHUFFLED = "keys of a row shuffled"
EVEN = "uniform attention"
KINDS = ("", SHUFFLED)
NAMES = ("rank", "effective rank", "apart", "apart, twin")
LAW = ("variance", "skewness", "kurtosis")


def of_maps(layer: Layer, batch: Batch, length: int) -> dict[str, Tensor | None]:
    """rank, effective rank [b, h] over the tokens; apart [b]: mean Jensen–Shannon divergence between two heads, nats;
    of shuffled rows under "…|SHUFFLED"; LAW [b, h] of ln A. Of the first `length` tokens. None without heads.
    """
    names = [f"{name}|{kind}" if kind else name for name in NAMES for kind in KINDS]
    if not layer.attends:
        return dict.fromkeys((*names, *LAW))
    rows, counts = _first_tokens(batch, length)
    rows = rows.to(layer.resid_pre.device)
    pattern, found = layer.pattern(rows), []
    for own, at, n, order in zip(pattern, rows, counts, _orders(batch, length), strict=True):
        found.append(_of_example(own[:, :n][..., at[:n]], order.to(own.device)))
    return dict(stacked(found))


def _first_tokens(batch: Batch, length: int) -> tuple[Int[Tensor, "b n"], list[int]]:
    """The positions of each example's first tokens, the last of a shorter one repeated, and how many it has."""
    place = queries_of(batch).place
    counts = [min(length, int(own.max()) + 1) for own in place]
    at = [(own >= 0).nonzero()[:, 0] for own in place]
    return torch.stack([own[torch.arange(length).clamp_max(n - 1)] for own, n in zip(at, counts, strict=True)]), counts


def _of_example(maps: Float[Tensor, "h n n"], order: Tensor) -> dict[str, Tensor]:
    n = maps.shape[-1]
    shuffled = maps.gather(-1, order[:n, :n].clamp_max(n - 1).expand_as(maps)).tril()
    found: dict[str, Tensor] = {}
    for kind, one in (("", maps), (f"|{SHUFFLED}", shuffled)):
        found[f"rank{kind}"] = metrics.attention_rank(one).float() / max(n - 1, 1)
        found[f"effective rank{kind}"] = metrics.effective_rank(metrics.without_diagonal(one)) / max(n - 1, 1)
        found[f"apart{kind}"] = _apart(maps, one)
        found[f"apart, twin{kind}"] = _apart(_twin(maps), _twin(one))
    visible = torch.ones(n, n, dtype=torch.bool, device=maps.device).tril()
    visible[0] = False
    return found | dict(zip(LAW, metrics.log_attention_moments(maps, visible), strict=True))


def _twin(maps: Float[Tensor, "h n n"]) -> Float[Tensor, "h n n"]:
    """Without the first column; rows that give nothing to others stay 0, and are as far apart as they are."""
    rest = maps.clone()
    rest[..., 0] = 0.0
    return rest / rest.sum(-1, keepdim=True).clamp_min(1e-12)


def _apart(one: Float[Tensor, "h n n"], other: Float[Tensor, "h n n"]) -> Float[Tensor, ""]:
    """Mean over pairs of different heads, the second from `other`, and over rows behind the second."""
    h, n, _ = one.shape
    if h < 2 or n < 3:
        return one.new_tensor(torch.nan)
    pairs = [metrics.jensen_shannon(one[:, 2:], other.roll(by, 0)[:, 2:]).mean() for by in range(1, h)]
    return torch.stack(pairs).mean()


@lru_cache(maxsize=2)
def _orders(batch: Batch, length: int) -> Int[Tensor, "b n n"]:
    """For each of an example's first rows an order of the keys that it sees, of its own; the others behind them."""
    found = []
    for name in batch.example_ids:
        drawn = permutations(length, [f"{name} {row}" for row in range(length)])
        hidden = torch.arange(length)[None] > torch.arange(length)[:, None]
        found.append(drawn.masked_fill(hidden, length).argsort(dim=-1, stable=True))
    return torch.stack(found)


@lru_cache(maxsize=8)
def even_ranks(n: int) -> tuple[float, float]:
    """Rank and effective rank of uniform attention on n tokens, over n − 1."""
    even = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    apart = metrics.effective_rank(metrics.without_diagonal(even)[None])
    return float(metrics.attention_rank(even[None])) / (n - 1), float(apart) / (n - 1)
