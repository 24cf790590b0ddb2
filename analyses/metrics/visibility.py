"""Which key a query sees, from the mask of real tokens."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import require, require_mask, require_pattern


def first_real(mask: Bool[Tensor, "b k"]) -> Bool[Tensor, "b k"]:
    """True at the first real token of each example, whatever the padding side."""
    require_mask("mask", mask, *mask.shape[:2])
    return mask & (mask.cumsum(-1) == 1)


def causal_visibility(mask: Bool[Tensor, "b k"]) -> Bool[Tensor, "b k k"]:
    """[b, q, k]: which key each query sees under a causal mask; both real, the key not after the query."""
    require_mask("mask", mask, *mask.shape[:2])
    n = mask.shape[-1]
    causal = torch.ones(n, n, dtype=torch.bool, device=mask.device).tril()
    return causal & mask[:, :, None] & mask[:, None, :]


def visible_keys(
    pattern: Float[Tensor, "b h q k"], mask: Bool[Tensor, "b k"], visible: Bool[Tensor, "b q k"] | None = None
) -> Bool[Tensor, "b q k"]:
    """`visible` or the causal default, checked against the pattern, without padding columns.

    Errors: ValueError for unequal shapes; for q ≠ k without `visible`.
    """
    b, _, q, k = require_pattern(pattern)
    require_mask("mask", mask, b, k)
    if visible is None:
        require(q == k, f"pattern has {q} queries and {k} keys: pass `visible` for chosen query rows")
        return causal_visibility(mask)
    require_mask("visible", visible, b, q, k)
    return visible & mask[:, None]


def uniform_pattern(visible: Bool[Tensor, "b q k"]) -> Float[Tensor, "b 1 q k"]:
    """The null of every share of attention: 1/n on the n keys that a query sees, 0 in rows without any.

    visible: as from `causal_visibility`, for a window or a bidirectional block. One head, to be given to any metric of
    patterns; the quotient of a metric and its value here is the lift.
    """
    count = visible.sum(-1, keepdim=True).clamp_min(1)
    return (visible / count)[:, None]
