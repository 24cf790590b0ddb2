"""Vision-aware heads: how far a head's output moves between two runs, and which heads VHR scales."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import require, require_shape, widen


def head_divergence(
    z_with: Float[Tensor, "*batch h d"], z_without: Float[Tensor, "*batch h d"], *, kind: str = "l2"
) -> Float[Tensor, "*batch h"]:
    """How far a head's output moves between two runs (VHD: with and without the image).

    z_with, z_without: [..., h, d] head outputs before W_O at the same token. Returns [..., h].
    kind "l2": ‖a − b‖₂, units of z, ≥ 0 (the paper's; favours heads with large norms).
    kind "relative": ‖a − b‖ / ½(‖a‖ + ‖b‖), 0…2; 0 where both are zero.
    kind "cosine": 1 − cos(a, b), 0…2, blind to scale; 0 where both are zero, 1 where one is.
    Source: arXiv 2412.13949, VHD ("relative" and "cosine" are added here).
    Errors: ValueError for an unknown kind or unequal shapes.
    """
    require(kind in ("l2", "relative", "cosine"), f'unknown kind {kind!r}: use "l2", "relative" or "cosine"')
    require_shape("z_without", z_without, *z_with.shape)
    a, b = widen(z_with), widen(z_without)
    if kind == "l2":
        return (a - b).norm(dim=-1)
    tiny = torch.finfo(a.dtype).tiny
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    if kind == "relative":
        return (a - b).norm(dim=-1) / (0.5 * (norm_a + norm_b)).clamp_min(tiny).squeeze(-1)
    # ½‖â − b̂‖² equals 1 − cos, but is exactly 0 for equal vectors and never negative.
    units = a / norm_a.clamp_min(tiny) - b / norm_b.clamp_min(tiny)
    one_is_zero = ((norm_a == 0) ^ (norm_b == 0)).squeeze(-1)
    return (0.5 * units.square().sum(-1)).clamp_max(2.0).masked_fill(one_is_zero, 1.0)


def total_divergence(vhd: Float[Tensor, "*batch layer h"], k: int = 4) -> Float[Tensor, "*batch"]:
    """T-VHD of a token: Σ over layers of the k largest head divergences. [..., layer, h] → [...], ≥ 0.

    Source: arXiv 2412.13949, T-VHD. The paper does not state k.
    Errors: ValueError where k is not in 1…h.
    """
    require(vhd.ndim >= 2, f"vhd has shape {tuple(vhd.shape)}, expected [..., layer, h]")
    require(1 <= k <= vhd.shape[-1], f"k = {k} is not in 1…{vhd.shape[-1]}, the number of heads")
    return widen(vhd).topk(k, dim=-1).values.sum((-2, -1))


def reinforced_heads(
    vhd: Float[Tensor, "*batch h"], norm_without: Float[Tensor, "*batch h"], *, filter: bool = True
) -> Bool[Tensor, "*batch h"]:
    """The heads of a layer that VHR scales: VHD above the layer's median, outliers set to 0 before.

    vhd: [..., h] divergences; norm_without: [..., h] ‖z‖₂ without the image (the norm, not its square).
    Outlier: VHD > μ + σ and ‖z‖² > μ + σ, each over the layer's heads (σ with denominator h; torch's default, h − 1,
    chooses other heads in 3 to 4 % of layers). filter: False keeps outliers, as the paper's table 4 does beside it.
    Returns Bool[..., h], at most h/2 True. Source: arXiv 2412.13949, VHR and its outlier filter.
    Errors: ValueError for unequal shapes or no heads.
    """
    require_shape("norm_without", norm_without, *vhd.shape)
    require(vhd.ndim >= 1 and vhd.shape[-1] > 0, "vhd holds no heads")
    divergence = widen(vhd)
    if filter:
        outlier = _above_one_sigma(divergence) & _above_one_sigma(widen(norm_without).square())
        divergence = divergence.masked_fill(outlier, 0.0)
    return divergence > divergence.median(dim=-1, keepdim=True).values


def _above_one_sigma(x: Tensor) -> Tensor:
    return x > x.mean(-1, keepdim=True) + x.std(-1, keepdim=True, correction=0)
