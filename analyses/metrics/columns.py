"""Attention sinks on the pattern's side: what keys receive, what queries spend."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._checks import NAN, require, require_mask, require_pattern, widen
from .visibility import first_real, visible_keys


def column_attention(
    pattern: Float[Tensor, "b h q k"],
    mask: Bool[Tensor, "b k"],
    visible: Bool[Tensor, "b q k"] | None = None,
) -> Float[Tensor, "b h k"]:
    """Mean attention that a key receives from the real queries that can see it: [b, h, k], 0…1.

    a_k = Σ_q A[q, k] / #{q real, q sees k}; NaN at padding and where nobody looks. A uniform causal head
    gives the mean of 1/n over those queries.
    visible: which key each query sees; by default a causal mask over real tokens. Pass it for sliding
    windows, bidirectional image blocks or chosen query rows.
    Source: arXiv 2406.15765 (column mean), with the denominator counted.
    Errors: ValueError for unequal shapes; for q ≠ k without `visible`.
    """
    visible = visible_keys(pattern, mask, visible)
    return _column_mean(pattern, visible)


def _column_mean(pattern: Tensor, visible: Tensor) -> Tensor:
    seen = visible.sum(1)[:, None]
    return (column_sums(pattern, visible.any(2)[:, None])[:, :, 0] / seen).masked_fill(seen == 0, NAN)


def column_sums(pattern: Float[Tensor, "b h q k"], queries: Bool[Tensor, "b sets q"]) -> Float[Tensor, "b h sets k"]:
    """Attention that each key receives from sets of queries: Σ_{q ∈ set} A[q, k], ≥ 0.

    A row gives nothing to keys that it does not see; rows of no set (padding) may hold anything, NaN as well.
    Errors: ValueError for unequal shapes.
    """
    b, _, q, _ = require_pattern(pattern)
    require_mask("queries", queries, b, queries.shape[1], q)
    wide = widen(pattern)
    weights = queries.to(wide.dtype)[:, None]
    sums = weights @ wide
    if bool(sums.isnan().any()):  # 0 · NaN is NaN: only then the rows are copied
        sums = weights @ wide.masked_fill(~queries.any(1)[:, None, :, None], 0.0)
    return sums


def attention_share(pattern: Float[Tensor, "b h q k"], columns: Bool[Tensor, "b k"]) -> Float[Tensor, "b h q"]:
    """Attention that each query spends on the chosen keys: Σ_{k ∈ columns} A[q, k], 0…1.

    Errors: ValueError for unequal shapes.
    """
    b, _, _, k = require_pattern(pattern)
    require_mask("columns", columns, b, k)
    wide = widen(pattern)
    return (wide @ columns.to(wide.dtype)[:, None, :, None]).squeeze(-1)


def hidden_sinks(
    pattern: Float[Tensor, "b h q k"],
    mask: Bool[Tensor, "b k"],
    *,
    threshold: float | int | Float[Tensor, "b"],
    min_queries: int = 8,
    visible: Bool[Tensor, "b q k"] | None = None,
) -> Bool[Tensor, "b h k"]:
    """Columns other than the first real token with `column_attention` above `threshold`: Bool[b, h, k].

    threshold: one number, or one per example (α / tokens). Columns that fewer than `min_queries` real
    queries can see are ignored: there a token's own attention makes false sinks.
    Source: arXiv 2406.15765 (0.1 in the scripts, 5/N in the paper), with the denominator counted.
    Errors: ValueError for unequal shapes, a negative threshold, min_queries < 1, q ≠ k without `visible`.
    """
    visible = visible_keys(pattern, mask, visible)
    column, seen = _column_mean(pattern, visible), visible.sum(1)[:, None]
    return are_hidden(column, seen, mask, threshold=threshold, min_queries=min_queries)


def are_hidden(
    column: Float[Tensor, "b h k"],
    seen: Int[Tensor, "b heads k"],
    mask: Bool[Tensor, "b k"],
    *,
    threshold: float | int | Float[Tensor, "b"],
    min_queries: int = 8,
) -> Bool[Tensor, "b h k"]:
    """`hidden_sinks` from column means that are there already.

    column: as from `column_attention`; seen: [b, 1 or h, k], how many real queries can see each key.
    Errors: ValueError for a negative threshold, min_queries < 1.
    """
    limit = torch.as_tensor(threshold, device=column.device)
    require(limit.ndim == 0 or limit.shape == mask.shape[:1], "threshold is neither a number nor [b]")
    require(bool((limit >= 0).all()), f"threshold {threshold} is negative")
    require(min_queries >= 1, f"min_queries = {min_queries} is below 1")
    counted = (seen >= min_queries) & ~first_real(mask)[:, None]
    return (column > limit.reshape(-1, 1, 1)) & counted
