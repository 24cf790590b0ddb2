"""Attention sinks on the residual's side: massive dimensions, and a token's sink value."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import require, require_mask, require_shape, widen


def sink_dimensions(
    resid: Float[Tensor, "layer b p d"],
    mask: Bool[Tensor, "b p"],
    *,
    min_abs: float | int = 100.0,
    min_ratio: float | int = 1000.0,
    max_dims: int = 4,
) -> list[int]:
    """Dimensions of the residual with massive activations, largest first; possibly none.

    resid: [layer, b, p, d] residuals; mask: [b, p] real tokens. Layers are read one after the other.
    A dimension is massive if |x[d]| of some real token of some layer is above `min_abs` and above
    `min_ratio` × the median magnitude of that layer (over its real tokens and dimensions).
    Returns at most `max_dims` indices in 0…d−1.
    Source: arXiv 2503.03321 (D_sink), found by the massive-activation criterion instead of a fixed list.
    Errors: ValueError for unequal shapes, no real token, max_dims < 1.
    """
    require(resid.ndim == 4, f"resid has shape {tuple(resid.shape)}, expected [layer, b, p, d]")
    require(len(resid) > 0, "resid holds no layers")
    found = [dimension_peaks(layer, mask) for layer in resid]
    peaks = torch.stack([peak for peak, _ in found])
    medians = torch.stack([median for _, median in found])
    return massive_dimensions(peaks, medians, min_abs=min_abs, min_ratio=min_ratio, max_dims=max_dims)


def dimension_peaks(
    resid: Float[Tensor, "b p d"], mask: Bool[Tensor, "b p"]
) -> tuple[Float[Tensor, "d"], Float[Tensor, ""]]:
    """Largest |x[d]| over the real tokens [d], and the median |x| over real tokens and dimensions [].

    For streaming: the maximum of `peaks` over batches serves `massive_dimensions`.
    Errors: ValueError for unequal shapes or no real token.
    """
    require(resid.ndim == 3, f"resid has shape {tuple(resid.shape)}, expected [b, p, d]")
    require_mask("mask", mask, *resid.shape[:2])
    require(bool(mask.any()), "mask holds no real token")
    magnitude = widen(resid[mask]).abs()
    return magnitude.amax(0), magnitude.median()


def massive_dimensions(
    peaks: Float[Tensor, "layer d"],
    medians: Float[Tensor, "layer"],
    *,
    min_abs: float | int = 100.0,
    min_ratio: float | int = 1000.0,
    max_dims: int = 4,
) -> list[int]:
    """`sink_dimensions` from what `dimension_peaks` found: peaks [layer, d], medians [layer]."""
    require(max_dims >= 1, f"max_dims = {max_dims} is below 1")
    require_shape("medians", medians, len(peaks))
    massive = (peaks > min_abs) & (peaks > min_ratio * medians[:, None])
    largest = peaks.where(massive, 0.0).amax(0)
    order = largest.sort(descending=True, stable=True).indices[:max_dims].tolist()
    return [d for d in order if largest[d] > 0]


def sink_values(resid: Float[Tensor, "b p d"], dims: Sequence[int], *, eps: float | int = 1e-6) -> Float[Tensor, "b p"]:
    """Sink value φ = max over `dims` of |x[d]| / √(mean x² + eps), in 0…√d. Padding gets a value too.

    resid: [b, p, d] residual entering a layer; dims: the model's sink dimensions. Returns [b, p].
    A token is a sink token where φ ≥ τ. τ does not transfer between widths: see `energy_share`.
    Source: arXiv 2503.03321, sink value (RMS without gain, float32).
    Errors: ValueError where dims is empty (φ is not defined then) or holds an index outside 0…d−1.
    """
    require(resid.ndim == 3, f"resid has shape {tuple(resid.shape)}, expected [b, p, d]")
    width, chosen = resid.shape[-1], [int(d) for d in dims]
    require(len(chosen) > 0, "dims is empty: without massive dimensions there is no sink value")
    require(all(0 <= d < width for d in chosen), f"dims {chosen} are not all in 0…{width - 1}")
    wide = widen(resid)
    rms = wide.square().mean(-1).add(eps).sqrt()
    return wide[..., chosen].abs().amax(-1) / rms


def energy_share(phi: Float[Tensor, "*shape"], d: int) -> Float[Tensor, "*shape"]:
    """φ²/d: share of the residual's energy ‖x‖² in its largest sink dimension, 0…1, any width d."""
    require(d >= 1, f"width d = {d} is below 1")
    return widen(phi).square() / d


def gap_threshold(phi_first: float | int, phi_median: float | int) -> float:
    """τ halfway (geometric mean) between the φ of first tokens and of median tokens; unit φ.

    Source: the gap rule; arXiv 2503.03321 uses τ = 20 at d = 4096.
    Errors: ValueError where one of the two is not positive.
    """
    require(phi_first > 0 and phi_median > 0, f"φ must be positive, got {phi_first} and {phi_median}")
    return math.sqrt(phi_first) * math.sqrt(phi_median)
