"""Alignment of representations and probes on them: of modalities, of models, of states with features."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from ._checks import require, require_shape, widen
from .lenses import kl_divergence
from .similarity import cosine

RELATIONS = 2**22  # entries of relations that are held at once


class PairwiseCosine(NamedTuple):
    """mean, −1…1, and standard deviation (divisor n·m) of the cosines of all pairs of two sets."""

    mean: Float[Tensor, ""]
    std: Float[Tensor, ""]


def pairwise_cosine(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> PairwiseCosine:
    """Implicit alignment of two sets of pooled states: cosines of all pairs, without the [n, m] matrix.

    The mean is the dot of the mean unit vectors, the mean square tr(C_x C_y), C = mean u uᵀ. Of content is only what
    pairs of the same example have above the others; compare with the sets within themselves. Zero states count as 0.
    Source: arXiv 2405.16700 (IMA), code. Errors: ValueError for unequal widths or an empty set.
    """
    require(x.shape[-1] == y.shape[-1], f"widths {x.shape[-1]} and {y.shape[-1]}")
    require(len(x) > 0 and len(y) > 0, "a set holds no states")
    units = [normalize(widen(states), dim=-1) for states in (x, y)]
    mean = units[0].mean(0) @ units[1].mean(0)
    square = torch.tensordot(*(u.T @ u / len(u) for u in units), dims=2)
    return PairwiseCosine(mean, (square - mean.square()).clamp_min(0.0).sqrt())


class TokenAlignment(NamedTuple):
    """Cosines of all pairs of tokens: the largest, the median, the mean over x of its largest."""

    largest: Float[Tensor, ""]
    median: Float[Tensor, ""]
    mean_of_largest: Float[Tensor, ""]


def token_alignment(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> TokenAlignment:
    """The token modes of `pairwise_cosine`, of one example's tokens, −1…1; [n, m] is held.

    Source: arXiv 2405.16700 (IMA), code. Errors: ValueError for unequal widths or an empty set.
    """
    require(x.shape[-1] == y.shape[-1], f"widths {x.shape[-1]} and {y.shape[-1]}")
    require(len(x) > 0 and len(y) > 0, "a set holds no states")
    cosines = normalize(widen(x), dim=-1) @ normalize(widen(y), dim=-1).T
    return TokenAlignment(cosines.max(), cosines.quantile(0.5), cosines.amax(1).mean())


def relation_divergence(
    teacher: Float[Tensor, "p d"], student: Float[Tensor, "p e"], relation_heads: int, *, causal: bool = False
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) of self-relations softmax(x xᵀ/√d_r), mean over relation heads and rows; nats, ≥ 0.

    teacher, student: one kind (q, k or v) of all heads side by side at the real tokens of the same text; their channels
    are split anew into relation heads, so that widths may differ. causal: keys of the past alone, which the paper does
    not do. Source: arXiv 2012.15828 (MiniLMv2), a third party's code.
    Rows are taken in chunks. Errors: ValueError for unequal texts or heads that do not divide a width.
    """
    require(len(teacher) == len(student), f"teacher has {len(teacher)} tokens, student {len(student)}")
    parts = [_relation_heads(widen(x), relation_heads) for x in (teacher, student)]
    step = max(1, RELATIONS // (relation_heads * max(1, len(teacher))))
    rows = torch.arange(len(teacher), device=teacher.device).split(step)
    return torch.cat([kl_divergence(*(_scores(x, some, causal) for x in parts)) for some in rows], 1).mean()


def _relation_heads(x: Tensor, heads: int) -> Float[Tensor, "h p d"]:
    require(heads >= 1 and x.shape[1] % heads == 0, f"{heads} relation heads do not divide {x.shape[1]} channels")
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


def _scores(parts: Float[Tensor, "h p d"], rows: Tensor, causal: bool) -> Float[Tensor, "h rows p"]:
    scores = parts[:, rows] @ parts.mT / parts.shape[-1] ** 0.5
    later = torch.arange(parts.shape[1], device=parts.device) > rows[:, None]
    return scores.masked_fill(later, -torch.inf) if causal else scores


class FeatureFit(NamedTuple):
    """smooth_l1: the training loss, ≥ 0. flat, token: cosine of the whole map, mean of the tokens' cosines. r2: ≤ 1."""

    smooth_l1: Float[Tensor, ""]
    flat: Float[Tensor, ""]
    token: Float[Tensor, ""]
    r2: Float[Tensor, ""]


def feature_fit(prediction: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> FeatureFit:
    """How well a probe gives target features: its loss and score as published, and two that the mean cannot win.

    smooth_l1: β 1, mean over entries. flat is high for the mean target already; r2: against the mean of the target's
    columns, NaN for a constant target. Source: arXiv 2412.09585 (OLA-VLM), code; token and r2 are added.
    Errors: ValueError for unequal shapes.
    """
    require_shape("target", target, *prediction.shape)
    a, b = widen(prediction), widen(target)
    unexplained, variation = (a - b).square().sum(), (b - b.mean(0)).square().sum()
    flat = cosine(a.flatten(), b.flatten())
    return FeatureFit(smooth_l1_loss(a, b), flat, cosine(a, b).mean(), 1 - unexplained / variation)


class Pooled(NamedTuple):
    """attention: of each query over the tokens, [query, n]. state: [d], the queries' blocks side by side."""

    attention: Float[Tensor, "query n"]
    state: Float[Tensor, "d"]


def query_pooling(
    tokens: Float[Tensor, "n d"], queries: Float[Tensor, "query d"], w_v: Float[Tensor, "out d"]
) -> Pooled:
    """Pooling of an image by learned queries: softmax(q · x/√d) over tokens; query m pools block m of the values W_v x.

    w_v as in torch's Linear. Source: arXiv 2506.10178 (EP), code. Errors: ValueError where the queries do not divide
    the values.
    """
    count = len(queries)
    require(count > 0 and len(w_v) % count == 0, f"{count} queries do not divide {len(w_v)} channels")
    x = widen(tokens)
    attention = (widen(queries) @ x.T / x.shape[-1] ** 0.5).softmax(-1)
    blocks = (x @ widen(w_v).T).unflatten(1, (count, -1))
    return Pooled(attention, torch.einsum("qn,nqc->qc", attention, blocks).flatten())


def update_ratio(
    update_norm: Float[Tensor, "*batch"], residual_norm: Float[Tensor, "*batch"], eps: float | int = 1e-6
) -> Float[Tensor, "*batch"]:
    """‖update‖ / (‖residual‖ + eps) of each token, ≥ 0. Source: repository of arXiv 2506.10178, code.

    Errors: ValueError for unequal shapes.
    """
    require_shape("residual_norm", residual_norm, *update_norm.shape)
    return widen(update_norm) / (widen(residual_norm) + eps)
