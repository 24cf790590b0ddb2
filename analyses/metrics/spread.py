"""How widely attention is spread: the entropy of its rows, by head and by layer."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._checks import require, require_mask, require_pattern, widen
from .modality import mean_over_queries


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
    p = widen(p)
    # ln of the smallest normal number instead of ln 0 (and of slow subnormals): 0 · ln 0 is 0.
    return -torch.linalg.vecdot(p, p.clamp_min(torch.finfo(p.dtype).tiny).log()).clamp_max(0.0)


def head_entropy(pattern: Float[Tensor, "b h q k"], queries: Bool[Tensor, "b q"]) -> Float[Tensor, "b h"]:
    """Entropy of a head in nats: mean of `attention_entropy` over the chosen rows, 0…mean ln n; NaN without rows.

    The first row has one key and entropy 0: it is in the published means. Entropy grows with the keys in view: the
    same of `uniform_pattern` is the ceiling. Source: arXiv 2410.09637, code. Errors: ValueError for unequal shapes.
    """
    return mean_over_queries(attention_entropy(pattern), queries)


def entropy_of_head_mean(
    pattern: Float[Tensor, "b h q k"], queries: Bool[Tensor, "b q"], *, eps: float | int = 1e-8
) -> Float[Tensor, "b"]:
    """Entropy of a layer's head-averaged map, −Σ Ā ln(Ā + eps), mean over rows; never below the mean of the heads'.

    [b, h, q, k] → [b], nats. Source: arXiv 2310.00535 (JoMA), code. Errors: ValueError for unequal shapes.
    """
    require_pattern(pattern)
    mean = widen(pattern).mean(1)
    nats = -torch.linalg.vecdot(mean, (mean + eps).log())
    return mean_over_queries(nats[:, None], queries)[:, 0]


def overloaded_heads(
    entropies: Float[Tensor, "*batch"], largest: float | int | Float[Tensor, ""] | None = None
) -> Bool[Tensor, "*batch"]:
    """Entropic overload: heads above ¾ of the largest head entropy, by default the largest that was observed.

    Then one head at least is overloaded, and all are where all are equally sharp: give the share against the uniform
    head's entropy beside it. Source: arXiv 2410.09637 (code), 2501.03489. Errors: ValueError without heads.
    """
    require(entropies.numel() > 0, "entropies holds no heads")
    return widen(entropies) > 0.75 * (entropies.max() if largest is None else largest)


def middle_heads(
    entropies: Float[Tensor, "*batch"], largest: float | int | Float[Tensor, ""] | None = None
) -> Bool[Tensor, "*batch"]:
    """Heads between ¼ and ¾ of the largest head entropy: about 90 % in a healthy GPT-2 by arXiv 2501.03489.

    Errors: ValueError without heads.
    """
    require(entropies.numel() > 0, "entropies holds no heads")
    top = entropies.max() if largest is None else largest
    return (widen(entropies) >= 0.25 * top) & ~overloaded_heads(entropies, top)


def length_scale(positions: Int[Tensor, "*batch"], trained_length: int) -> Float[Tensor, "*batch"]:
    """Factor on the query at a position (from 0): max(1, ln(position + 1) / ln(trained length)).

    It keeps entropy down in contexts longer than the trained ones. Source: arXiv 2401.07004 (Entropy-ABF), code.
    Errors: ValueError for a trained length below 2.
    """
    require(trained_length >= 2, f"trained_length = {trained_length} is below 2")
    return ((positions + 1).double().log() / math.log(trained_length)).clamp_min(1.0)
