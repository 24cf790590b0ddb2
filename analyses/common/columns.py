"""Sums over the columns of attention patterns, part by part."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.model.attention import AttentionCall
from .. import metrics


def column_counts(
    call: AttentionCall, part: slice, pattern: Float[Tensor, "b h q k"], queries: Bool[Tensor, "b sets q"]
) -> tuple[Float[Tensor, "b h sets k"], Tensor]:
    """`metrics.column_sums` of a part's pattern; how many queries of the first set see each key, Int[b, 1 or h, k]."""
    first = queries[:, :1].float()[:, None]
    return metrics.column_sums(pattern, queries), (first @ call.allowed(part).float())[:, :, 0].int()
