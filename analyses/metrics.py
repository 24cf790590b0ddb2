"""Metrics: pure functions on tensors, in the units of the papers.

Letters in shapes: b example, h query head, q query, k key, p position, d width, vocab vocabulary.
`pattern` is attention after the softmax, `mask` is True at real tokens. Positions come from masks, so left
and right padding give the same values. Half-precision input is reduced in float32, float64 stays float64.
A wrong shape or an argument out of range raises ValueError; NaN means "not defined here".
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NAN = float("nan")


# ---------------------------------------------------------------- helpers


def _wide(x: Tensor) -> Tensor:
    """float32 for everything below it, so that sums of half-precision numbers are right."""
    return x if x.dtype == torch.float64 else x.float()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_shape(name: str, x: Tensor, *shape: int) -> None:
    _require(tuple(x.shape) == shape, f"{name} has shape {tuple(x.shape)}, expected {shape}")


def _require_mask(name: str, x: Tensor, *shape: int) -> None:
    _require_shape(name, x, *shape)
    _require(x.dtype == torch.bool, f"{name} has dtype {x.dtype}, expected bool: use .bool()")


def _require_pattern(pattern: Tensor) -> tuple[int, int, int, int]:
    _require(pattern.ndim == 4, f"pattern has shape {tuple(pattern.shape)}, expected [b, h, q, k]")
    b, h, q, k = pattern.shape
    _require(b > 0, "pattern holds no examples")
    return b, h, q, k


def first_real(mask: Bool[Tensor, "b k"]) -> Bool[Tensor, "b k"]:
    """True at the first real token of each example, whatever the padding side."""
    _require_mask("mask", mask, *mask.shape[:2])
    return mask & (mask.cumsum(-1) == 1)


def causal_visibility(mask: Bool[Tensor, "b k"]) -> Bool[Tensor, "b k k"]:
    """[b, q, k]: which key each query sees under a causal mask; both real, the key not after the query."""
    _require_mask("mask", mask, *mask.shape[:2])
    n = mask.shape[-1]
    causal = torch.ones(n, n, dtype=torch.bool, device=mask.device).tril()
    return causal & mask[:, :, None] & mask[:, None, :]


def _visibility(pattern: Tensor, mask: Tensor, visible: Tensor | None) -> Tensor:
    """`visible` or the causal default, checked against the pattern, without padding columns."""
    b, _, q, k = _require_pattern(pattern)
    _require_mask("mask", mask, b, k)
    if visible is None:
        _require(q == k, f"pattern has {q} queries and {k} keys: pass `visible` for chosen query rows")
        return causal_visibility(mask)
    _require_mask("visible", visible, b, q, k)
    return visible & mask[:, None]


# ---------------------------------------------------------------- vision-aware heads


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
    _require(kind in ("l2", "relative", "cosine"), f'unknown kind {kind!r}: use "l2", "relative" or "cosine"')
    _require_shape("z_without", z_without, *z_with.shape)
    a, b = _wide(z_with), _wide(z_without)
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
    _require(vhd.ndim >= 2, f"vhd has shape {tuple(vhd.shape)}, expected [..., layer, h]")
    _require(1 <= k <= vhd.shape[-1], f"k = {k} is not in 1…{vhd.shape[-1]}, the number of heads")
    return _wide(vhd).topk(k, dim=-1).values.sum((-2, -1))


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
    _require_shape("norm_without", norm_without, *vhd.shape)
    _require(vhd.ndim >= 1 and vhd.shape[-1] > 0, "vhd holds no heads")
    divergence = _wide(vhd)
    if filter:
        outlier = _above_one_sigma(divergence) & _above_one_sigma(_wide(norm_without).square())
        divergence = divergence.masked_fill(outlier, 0.0)
    return divergence > divergence.median(dim=-1, keepdim=True).values


def _above_one_sigma(x: Tensor) -> Tensor:
    return x > x.mean(-1, keepdim=True) + x.std(-1, keepdim=True, correction=0)


# ---------------------------------------------------------------- attention sinks: the residual's side


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
    _require(resid.ndim == 4, f"resid has shape {tuple(resid.shape)}, expected [layer, b, p, d]")
    _require(len(resid) > 0, "resid holds no layers")
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
    _require(resid.ndim == 3, f"resid has shape {tuple(resid.shape)}, expected [b, p, d]")
    _require_mask("mask", mask, *resid.shape[:2])
    _require(bool(mask.any()), "mask holds no real token")
    magnitude = _wide(resid[mask]).abs()
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
    _require(max_dims >= 1, f"max_dims = {max_dims} is below 1")
    _require_shape("medians", medians, len(peaks))
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
    _require(resid.ndim == 3, f"resid has shape {tuple(resid.shape)}, expected [b, p, d]")
    width, chosen = resid.shape[-1], [int(d) for d in dims]
    _require(len(chosen) > 0, "dims is empty: without massive dimensions there is no sink value")
    _require(all(0 <= d < width for d in chosen), f"dims {chosen} are not all in 0…{width - 1}")
    wide = _wide(resid)
    rms = wide.square().mean(-1).add(eps).sqrt()
    return wide[..., chosen].abs().amax(-1) / rms


def energy_share(phi: Float[Tensor, "*shape"], d: int) -> Float[Tensor, "*shape"]:
    """φ²/d: share of the residual's energy ‖x‖² in its largest sink dimension, 0…1, any width d."""
    _require(d >= 1, f"width d = {d} is below 1")
    return _wide(phi).square() / d


def gap_threshold(phi_first: float | int, phi_median: float | int) -> float:
    """τ halfway (geometric mean) between the φ of first tokens and of median tokens; unit φ.

    Source: the gap rule; arXiv 2503.03321 uses τ = 20 at d = 4096.
    Errors: ValueError where one of the two is not positive.
    """
    _require(phi_first > 0 and phi_median > 0, f"φ must be positive, got {phi_first} and {phi_median}")
    return math.sqrt(phi_first) * math.sqrt(phi_median)


# ---------------------------------------------------------------- attention sinks: the pattern's side


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
    visible = _visibility(pattern, mask, visible)
    return _column_mean(pattern, visible)


def _column_mean(pattern: Tensor, visible: Tensor) -> Tensor:
    seen = visible.sum(1)[:, None]
    return (column_sums(pattern, visible.any(2)[:, None])[:, :, 0] / seen).masked_fill(seen == 0, NAN)


def column_sums(pattern: Float[Tensor, "b h q k"], queries: Bool[Tensor, "b sets q"]) -> Float[Tensor, "b h sets k"]:
    """Attention that each key receives from sets of queries: Σ_{q ∈ set} A[q, k], ≥ 0.

    A row gives nothing to keys that it does not see; rows of no set (padding) may hold anything, NaN as well.
    Errors: ValueError for unequal shapes.
    """
    b, _, q, _ = _require_pattern(pattern)
    _require_mask("queries", queries, b, queries.shape[1], q)
    wide = _wide(pattern)
    weights = queries.to(wide.dtype)[:, None]
    sums = weights @ wide
    if bool(sums.isnan().any()):  # 0 · NaN is NaN: only then the rows are copied
        sums = weights @ wide.masked_fill(~queries.any(1)[:, None, :, None], 0.0)
    return sums


def attention_share(pattern: Float[Tensor, "b h q k"], columns: Bool[Tensor, "b k"]) -> Float[Tensor, "b h q"]:
    """Attention that each query spends on the chosen keys: Σ_{k ∈ columns} A[q, k], 0…1.

    Errors: ValueError for unequal shapes.
    """
    b, _, _, k = _require_pattern(pattern)
    _require_mask("columns", columns, b, k)
    wide = _wide(pattern)
    return (wide @ columns.to(wide.dtype)[:, None, :, None]).squeeze(-1)


def nonsink_ratio(
    pattern: Float[Tensor, "b h q k"], image: Bool[Tensor, "b k"], sinks: Bool[Tensor, "b k"]
) -> Float[Tensor, "b h q"]:
    """Visual non-sink ratio Σ_{image∖sinks} A / Σ_{image} A, 0…1; NaN without visual mass.

    `image_centric` chooses heads by it. Source: arXiv 2503.03321. Errors: ValueError for unequal shapes.
    """
    b, _, _, k = _require_pattern(pattern)
    _require_mask("image", image, b, k)
    _require_mask("sinks", sinks, b, k)
    visual = attention_share(pattern, image)
    ratio = attention_share(pattern, image & ~sinks) / visual
    return ratio.masked_fill(visual <= 0, NAN)


def image_centric(
    pattern: Float[Tensor, "b h q k"],
    *,
    image: Bool[Tensor, "b m"],
    sinks: Bool[Tensor, "b m"],
    rho: float | int,
    mass: float | int,
    without_visual_sinks: str = "leave",
) -> Bool[Tensor, "b h q"]:
    """The rows that VAR edits: attention on the image of at least `mass`, and a non-sink ratio of at least rho.

    image, sinks: columns; those behind m are neither. Rows without attention on the image are never chosen.
    without_visual_sinks: where no sink lies in the image, "leave" chooses no row, as the released code does; "move"
    takes the formula as it is printed, where the ratio is then 1 and the BOS's attention goes to the image.
    Source: arXiv 2503.03321, seilk/VisAttnSink logic.py. Errors: ValueError for unequal shapes or another word.
    """
    _require(without_visual_sinks in ("leave", "move"), f"without_visual_sinks = {without_visual_sinks!r}")
    b, _, _, k = _require_pattern(pattern)
    m = image.shape[-1]
    _require(m <= k, f"image has {m} columns, pattern {k}")
    _require_mask("image", image, b, m)
    _require_mask("sinks", sinks, b, m)
    columns = sink_columns(image, sinks, without_visual_sinks=without_visual_sinks, dtype=_wide(pattern).dtype)
    visual, nonsink = (_wide(pattern)[..., :m] @ columns.read[..., :2]).unbind(-1)
    return _are_centric(visual, nonsink, columns, rho, mass)


def _are_centric(
    visual: Tensor, nonsink: Tensor, columns: "SinkColumns", rho: float | int, mass: float | int
) -> Tensor:
    enough = visual >= max(mass, torch.finfo(visual.dtype).tiny)
    return enough & (nonsink >= rho * visual) & columns.editable


class SinkColumns(NamedTuple):
    """A prompt's columns as VAR's rows are summed over them. read: image, image without sinks, givers, takers,
    [b, 1, m, 4]; write: givers and takers, [b, 1, 2, m]; editable: Bool[b, 1, 1].
    """

    read: Float[Tensor, "b 1 m 4"]
    write: Float[Tensor, "b 1 2 m"]
    editable: Bool[Tensor, "b 1 1"]

    def of(self, examples: slice) -> "SinkColumns":
        return SinkColumns(self.read[examples], self.write[examples], self.editable[examples])


def sink_columns(
    image: Bool[Tensor, "b m"],
    sinks: Bool[Tensor, "b m"],
    givers: Bool[Tensor, "b m"] | None = None,
    *,
    without_visual_sinks: str = "leave",
    dtype: torch.dtype = torch.float32,
) -> SinkColumns:
    """Columns for `redistribute_centric`, made once a prompt. givers: those that give, by default the sinks."""
    givers = sinks if givers is None else givers
    takers = image & ~givers
    read = torch.stack([image, image & ~sinks, givers, takers], -1).to(dtype)[:, None]
    editable = (image & sinks).any(1) | (without_visual_sinks == "move")
    return SinkColumns(read, torch.stack([givers, takers], 1).to(dtype)[:, None], editable[:, None, None])


def redistribute_centric(
    pattern: Float[Tensor, "b h q k"],
    columns: SinkColumns,
    *,
    p: float | int,
    rho: float | int,
    mass: float | int,
    active: Bool[Tensor, "b q"] | None = None,
) -> Float[Tensor, "b h q k"]:
    """`redistribute_sinks` in place (float32 or float64) on the rows that `image_centric` chooses, in one walk.

    active: rows that may be chosen at all.
    """
    known = pattern[..., : columns.read.shape[2]]
    visual, nonsink, given, taken = (known @ columns.read).unbind(-1)
    heads = _are_centric(visual, nonsink, columns, rho, mass)
    heads = heads if active is None else heads & active[:, None]
    _move(known, columns, given, taken, heads, p)
    return pattern


def _move(known: Tensor, columns: SinkColumns, given: Tensor, taken: Tensor, heads: Tensor, p: float | int) -> None:
    tiny = torch.finfo(known.dtype).tiny
    give = (heads & (taken >= tiny)) * p
    gain = give * given / taken.clamp_min(tiny)
    known.addcmul_(known, torch.stack([-give, gain], -1) @ columns.write)


def redistribute_sinks(
    pattern: Float[Tensor, "b h q k"],
    *,
    image: Bool[Tensor, "b m"],
    sinks: Bool[Tensor, "b m"],
    p: float | int,
    heads: Bool[Tensor, "b h q"],
    out: Float[Tensor, "b h q k"] | None = None,
) -> Float[Tensor, "b h q k"]:
    """VAR: sink columns × (1 − p), the freed attention to visual non-sinks in proportion to theirs.

    sinks: text and visual sink columns; columns behind m are neither image nor sink. heads: the rows to edit, as from
    `image_centric`. Rows keep their sum; rows without visual non-sink mass stay as they are; p = 0 is the identity.
    Same shape and dtype as `pattern`; out: written there, `pattern` itself for an edit in place (float32 or float64).
    Source: arXiv 2503.03321 (p is what moves; the released code's p is what stays). Slips of that code, not copied:
    NaN in rows without visual non-sink mass, sinks kept from a first image, the last layer edited as well, and the
    7B model's dimensions for the 13B.
    Errors: ValueError for unequal shapes or p outside 0…1.
    """
    b, h, q, k = _require_pattern(pattern)
    m = image.shape[-1]
    _require(0 <= p <= 1, f"p = {p} is outside 0…1")
    _require(m <= k, f"image has {m} columns, pattern {k}")
    _require_mask("image", image, b, m)
    _require_mask("sinks", sinks, b, m)
    _require_mask("heads", heads, b, h, q)
    new = _written(pattern, out)
    columns = sink_columns(image, sinks, dtype=new.dtype)
    given, taken = (new[..., :m] @ columns.read[..., 2:]).unbind(-1)
    _move(new[..., :m], columns, given, taken, heads, p)
    return new.to(pattern.dtype)


def _written(pattern: Tensor, out: Tensor | None) -> Tensor:
    """Where an edited pattern is written, in at least float32: a copy, or `out` with the pattern in it."""
    if out is None:
        return _wide(pattern).clone() if _wide(pattern) is pattern else _wide(pattern)
    _require_shape("out", out, *pattern.shape)
    _require(out.dtype == pattern.dtype == _wide(out).dtype, "an edit in place needs float32 or float64")
    return out if out is pattern else out.copy_(pattern)


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
    visible = _visibility(pattern, mask, visible)
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
    _require(limit.ndim == 0 or limit.shape == mask.shape[:1], "threshold is neither a number nor [b]")
    _require(bool((limit >= 0).all()), f"threshold {threshold} is negative")
    _require(min_queries >= 1, f"min_queries = {min_queries} is below 1")
    counted = (seen >= min_queries) & ~first_real(mask)[:, None]
    return (column > limit.reshape(-1, 1, 1)) & counted


def calibrate_sinks(
    pattern: Float[Tensor, "b h q k"],
    sinks: Bool[Tensor, "b h m"],
    beta: float | int,
    *,
    out: Float[Tensor, "b h q k"] | None = None,
) -> Float[Tensor, "b h q k"]:
    """ACT: sink columns × β, the freed attention to the other columns in proportion to theirs.

    sinks: [b, h, m], as from `hidden_sinks`; columns behind m are none. Rows keep their sum; rows with attention on
    sinks alone stay as they are; β = 1 is the identity. Same shape and dtype as `pattern`; out: written there,
    `pattern` itself for an edit in place (float32 or float64).
    Source: arXiv 2406.15765 (β = 0.4, layers 2 … L−2). Slips of the released code, not copied: `indices[1:]` spares
    the first sink that was found, be it the first token or not; the patch of Mistral has no effect.
    Errors: ValueError for unequal shapes, β outside 0…1.
    """
    b, h, _, k = _require_pattern(pattern)
    m = sinks.shape[-1]
    _require(0 <= beta <= 1, f"beta = {beta} is outside 0…1")
    _require(m <= k, f"sinks has {m} columns, pattern {k}")
    _require_mask("sinks", sinks, b, h, m)
    new = _written(pattern, out)
    known = new[..., :m]
    on_sinks = known * sinks[:, :, None]
    known.sub_(on_sinks)
    given, rest = on_sinks.sum(-1, keepdim=True), new.sum(-1, keepdim=True)
    able = rest > 0
    new.mul_(1 + torch.where(able, (1 - beta) * given / rest.where(able, 1.0), 0.0))
    known.add_(on_sinks * torch.where(able, beta, 1.0))
    return new.to(pattern.dtype)


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
    b, _, q, k = _require_pattern(pattern)
    nats = torch.stack([_row_entropy(_wide(attention)) for attention in pattern])
    if not normalized:
        return nats
    if visible is None:
        count = (pattern > 0).sum(-1)
    else:
        _require_mask("visible", visible, b, q, k)
        count = visible.sum(-1)[:, None]
    return (nats / count.clamp_min(2).log()).clamp_max(1.0)


def _row_entropy(p: Tensor) -> Tensor:
    # ln of the smallest normal number instead of ln 0 (and of slow subnormals): 0 · ln 0 is 0.
    return -torch.linalg.vecdot(p, p.clamp_min(torch.finfo(p.dtype).tiny).log()).clamp_max(0.0)


# ---------------------------------------------------------------- lenses


def logit_lens(
    resid: Float[Tensor, "*batch d"],
    norm: Callable[[Tensor], Tensor] | None,
    unembed: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*batch vocab"]:
    """Logits of an intermediate state: unembed(norm(x)). [..., d] → [..., vocab], logits.

    norm: the model's final norm; None leaves it out, as some papers do in the middle layers.
    With `subject.norm` and `subject.unembed` the last state gives the model's own logits.
    Source: the logit lens (nostalgebraist 2020). Errors: ValueError where unembed changes the leading shape.
    """
    logits = unembed(resid if norm is None else norm(resid))
    _require(logits.shape[:-1] == resid.shape[:-1], f"unembed gave {tuple(logits.shape)}")
    return logits


def entropy(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch"]:
    """Entropy of softmax(logits) in nats, 0…ln vocab. [..., vocab] → [...]."""
    logs = _wide(logits).log_softmax(-1)
    logs = logs.clamp_min(torch.finfo(logs.dtype).min)  # so that 0 · ln 0 is 0
    return -torch.linalg.vecdot(logs.exp(), logs)


def kl_divergence(
    logits_p: Float[Tensor, "*batch vocab"], logits_q: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(p ‖ q) = Σ p (ln p − ln q) of the two softmaxes, nats, ≥ 0; inf where q excludes what p allows.

    For a lens: p is the final distribution, q the lens. Errors: ValueError for unequal shapes.
    """
    _require_shape("logits_q", logits_q, *logits_p.shape)
    log_p, log_q = _wide(logits_p).log_softmax(-1), _wide(logits_q).log_softmax(-1)
    p = log_p.exp()
    terms = (p * (log_p - log_q)).masked_fill(p == 0, 0.0)  # 0 · ∞ is 0 here; NaN stays NaN
    return terms.sum(-1).clamp_min(0.0)


def answer_probability(logits: Float[Tensor, "*batch vocab"], ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Softmax probability of one token per row, 0…1.

    Errors: ValueError for unequal shapes or ids outside the vocabulary.
    """
    wide = _wide(logits)
    return (_answer_logits(wide, ids).squeeze(-1) - wide.logsumexp(-1)).exp()


def answer_rank(logits: Float[Tensor, "*batch vocab"], ids: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Rank of one token per row: the number of strictly larger logits, 0 (top) … vocab−1.

    Ties do not depend on the order of the vocabulary. NaN counts as larger, so NaN is never the top.
    Errors: ValueError for unequal shapes or ids outside the vocabulary.
    """
    return (~(logits <= _answer_logits(logits, ids))).sum(-1)


def lens_readings(
    logits: Float[Tensor, "n vocab"],
    ids: Int[Tensor, "n m"],
    final_p: Float[Tensor, "n vocab"],
    final_entropy: Float[Tensor, "n"],
) -> dict[str, Tensor]:
    """What a lens page reads of each state, in one walk over the vocabulary (far cheaper than one by one).

    logits: the lens, finite; ids: m candidate tokens per row; final_p, final_entropy: softmax and entropy
    of the model's own logits, computed once for all states.
    Returns "probability" [n, m], "rank" [n, m], "entropy" [n] (nats) and "kl" [n] = KL(final ‖ lens) =
    −H(final) − Σ p ln q (nats, exact to about 1e-5): the values of `answer_probability`, `answer_rank`,
    `entropy` and `kl_divergence`. Errors: ValueError for unequal shapes, no rows, ids out of range.
    """
    _require(logits.ndim == 2 and len(logits) > 0, f"logits has shape {tuple(logits.shape)}")
    n, vocab = logits.shape
    _require(ids.ndim == 2 and len(ids) == n, f"ids has shape {tuple(ids.shape)}, expected ({n}, m)")
    _require_shape("final_p", final_p, n, vocab)
    _require_shape("final_entropy", final_entropy, n)
    _require_inside(ids, vocab)
    rows = max(1, 2**18 // vocab)  # a chunk's temporaries stay in the processor's cache
    inputs = (x.split(rows) for x in (logits, ids.long(), final_p, final_entropy))
    parts = [_read_rows(*chunk) for chunk in zip(*inputs, strict=True)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _read_rows(logits: Tensor, ids: Tensor, final_p: Tensor, final_entropy: Tensor) -> dict[str, Tensor]:
    logs = _wide(logits).log_softmax(-1)
    p = final_p.to(logs.dtype)
    rank = torch.empty_like(ids)
    for j, answer in enumerate(logits.gather(-1, ids).split(1, dim=-1)):
        rank[:, j] = (~(logits <= answer)).sum(-1, dtype=torch.int32)
    return {
        "probability": logs.gather(-1, ids).exp(),
        "rank": rank,
        "entropy": -torch.linalg.vecdot(logs.exp(), logs),
        "kl": (-final_entropy - torch.linalg.vecdot(p, logs)).clamp_min(0.0),
    }


def _answer_logits(logits: Tensor, ids: Tensor) -> Tensor:
    _require_shape("ids", ids, *logits.shape[:-1])
    _require_inside(ids, logits.shape[-1])
    return logits.gather(-1, ids.long()[..., None])


def _require_inside(ids: Tensor, vocab: int) -> None:
    _require(bool(((ids >= 0) & (ids < vocab)).all()), f"ids are not all in 0…{vocab - 1}")


# ---------------------------------------------------------------- effects of interventions


def percent_change(
    after: Float[Tensor, "..."] | float | int, before: Float[Tensor, "..."] | float | int
) -> Float[Tensor, "..."]:
    """100 · (after − before) / before, per cent; NaN where before is 0. Shapes broadcast.

    Source: arXiv 2411.18620 (knockout). Errors: ValueError where the shapes do not broadcast.
    """
    new, old = _wide(torch.as_tensor(after)), _wide(torch.as_tensor(before))
    try:
        torch.broadcast_shapes(new.shape, old.shape)
    except RuntimeError as error:
        raise ValueError(f"shapes {tuple(new.shape)} and {tuple(old.shape)} do not broadcast") from error
    return (100 * (new - old) / old).masked_fill(old == 0, NAN)


def normalized_effect(
    patched: Float[Tensor, "*shape b"], clean: Float[Tensor, "b"], donor: Float[Tensor, "b"]
) -> Float[Tensor, "*shape"]:
    """(mean patched − mean clean) / (mean donor − mean clean): means first, ratio last. [..., b] → [...].

    0: nothing moved, 1: the donor's value reached; not bounded. Examples with NaN (positions that they do
    not have) leave all three means; NaN where none is left or donor and clean agree.
    Source: arXiv 2310.08744 (effect of a head). Errors: ValueError for unequal shapes or no examples.
    """
    _require(patched.ndim >= 1 and patched.shape[-1] > 0, "patched holds no examples")
    _require_shape("clean", clean, patched.shape[-1])
    _require_shape("donor", donor, patched.shape[-1])
    moved, span = _wide(patched) - _wide(clean), _wide(donor) - _wide(clean)
    missing = moved.isnan() | span.isnan()
    span = span.expand_as(moved).masked_fill(missing, 0.0).sum(-1)
    return (moved.masked_fill(missing, 0.0).sum(-1) / span).masked_fill(span == 0, NAN)


def top_heads(effects: Float[Tensor, "layer h"], share: float | int) -> list[tuple[int, int]]:
    """The max(1, round(share · layers · heads)) heads of largest |effect|, largest first: (layer, head).

    Ties go to the lower layer, then the lower head. Both signs count.
    Source: arXiv 2310.08744 takes the top 2 % per path-patching stage; this is a flat share of one map.
    Errors: ValueError for share outside (0, 1], another shape, no heads, or NaN effects.
    """
    _require(0 < share <= 1, f"share = {share} is outside (0, 1]")
    _require(effects.ndim == 2 and effects.numel() > 0, f"effects has shape {tuple(effects.shape)}")
    _require(not bool(effects.isnan().any()), "effects holds NaN: a head without an effect cannot be ranked")
    count = max(1, round(share * effects.numel()))
    order = _wide(effects).abs().flatten().sort(descending=True, stable=True).indices[:count]
    return [divmod(int(i), effects.shape[1]) for i in order]
