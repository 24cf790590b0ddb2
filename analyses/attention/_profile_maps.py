"""What needs whole maps, of a prompt's first tokens: ranks, how far heads are apart, the law of ln A; with controls."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import SHUFFLED_KEYS
from ..common.ragged import stacked
from ._first_tokens import even_maps, of_first_tokens, orders_of, sink_twin, with_shuffled_keys

KINDS = ("", SHUFFLED_KEYS)
NAMES = ("rank", "effective rank", "apart", "apart, twin")
LAW = ("variance", "skewness", "kurtosis")


def of_maps(layer: Layer, batch: Batch, length: int) -> dict[str, Tensor | None]:
    """rank, effective rank [b, h] over the tokens; apart [b]: mean Jensen–Shannon divergence between two heads, nats;
    of shuffled rows under "…|SHUFFLED_KEYS"; LAW [b, h] of ln A. Of the first `length` tokens. None without heads.
    """
    names = [f"{name}|{kind}" if kind else name for name in NAMES for kind in KINDS]
    if not layer.attends:
        return dict.fromkeys((*names, *LAW))
    orders = orders_of(batch, length)
    found = [_of_example(maps, own) for maps, own in zip(of_first_tokens(layer, batch, length), orders, strict=True)]
    return dict(stacked(found))


def _of_example(maps: Float[Tensor, "h n n"], order: Tensor) -> dict[str, Tensor]:
    n = maps.shape[-1]
    shuffled = with_shuffled_keys(maps, order)
    found: dict[str, Tensor] = {}
    for kind, one in (("", maps), (f"|{SHUFFLED_KEYS}", shuffled)):
        found[f"rank{kind}"] = metrics.attention_rank(one).float() / max(n - 1, 1)
        found[f"effective rank{kind}"] = metrics.effective_rank(metrics.without_diagonal(one)) / max(n - 1, 1)
        found[f"apart{kind}"] = _apart(maps, one)
        found[f"apart, twin{kind}"] = _apart(sink_twin(maps), sink_twin(one))
    visible = torch.ones(n, n, dtype=torch.bool, device=maps.device).tril()
    visible[0] = False
    return found | dict(zip(LAW, metrics.log_attention_moments(maps, visible), strict=True))


def _apart(one: Float[Tensor, "h n n"], other: Float[Tensor, "h n n"]) -> Float[Tensor, ""]:
    """Mean over pairs of different heads, the second from `other`, and over rows behind the second."""
    h, n, _ = one.shape
    if h < 2 or n < 3:
        return one.new_tensor(torch.nan)
    pairs = [metrics.jensen_shannon(one[:, 2:], other.roll(by, 0)[:, 2:]).mean() for by in range(1, h)]
    return torch.stack(pairs).mean()


@lru_cache(maxsize=8)
def even_ranks(n: int) -> tuple[float, float]:
    """Rank and effective rank of uniform attention on n tokens, over n − 1."""
    even = even_maps(n)[None]
    apart = metrics.effective_rank(metrics.without_diagonal(even))
    return float(metrics.attention_rank(even)) / (n - 1), float(apart) / (n - 1)
