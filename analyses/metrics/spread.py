"""How widely attention is spread: the entropy of its rows."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import require_mask, require_pattern, widen


def attention_entropy(
    pattern: Float[Tensor, "b h q k"],
    *,
    normalized: bool = False,
    visible: Bool[Tensor, "b q k"] | None = None,
) -> Float[Tensor, "b h q"]:
    """Entropy −Σ_k A ln A of each row in nats, 0…ln n with n keys in view; `normalized` divides by ln n.

    n: keys with `visible` True, by default keys with A > 0 (pass `visible` for half precision, where small
    attention becomes 0). Normalised values lie in 0…1, and are 0 where n = 1.
    Source: the attention profile of Deconstructing Attention. Errors: ValueError for unequal shapes.
    """
    b, _, q, k = require_pattern(pattern)
    nats = torch.stack([row_entropy(widen(attention)) for attention in pattern])
    if not normalized:
        return nats
    if visible is None:
        count = (pattern > 0).sum(-1)
    else:
        require_mask("visible", visible, b, q, k)
        count = visible.sum(-1)[:, None]
    return (nats / count.clamp_min(2).log()).clamp_max(1.0)


def row_entropy(p: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Entropy −Σ p ln p of distributions in nats, 0…ln k; rows that sum to less give what their entries give."""
    # ln of the smallest normal number instead of ln 0 (and of slow subnormals): 0 · ln 0 is 0.
    return -torch.linalg.vecdot(p, p.clamp_min(torch.finfo(p.dtype).tiny).log()).clamp_max(0.0)
