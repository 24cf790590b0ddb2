"""Maps over the image from attention: contrasts, shifts, gradients, choices of heads. Scores of a map: boxes.py.

Geometry comes from the model in hand; a map is [patch] or [row, column].
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import require, require_shape, widen
from .spread import row_entropy


def relative_attention(
    question: Float[Tensor, "*map"], general: Float[Tensor, "*map"], eps: float | int = 0.0
) -> Float[Tensor, "*map"]:
    """A(question) / (A(general) + eps): what a question adds to the look of a general prompt; ≥ 0.

    Without eps a patch near 0 under the general prompt wins. Source: arXiv 2502.17422, code (no eps); with eps the
    contrast of arXiv 2509.06461 (CARVE). Errors: ValueError for unequal shapes.
    """
    require_shape("general", general, *question.shape)
    return widen(question) / (widen(general) + eps)


def fused_contrast(contrast: Float[Tensor, "step layer patch"]) -> Float[Tensor, "patch"]:
    """CARVE's fusion: Σ_t t · Σ_l of the contrasts, steps t from 1; ≥ 0, not normalised.

    Source: arXiv 2509.06461 (CARVE), code.
    """
    steps = torch.arange(1, len(contrast) + 1, dtype=widen(contrast).dtype, device=contrast.device)
    return torch.einsum("t,tlp->p", steps, widen(contrast))


def map_entropy(values: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Entropy in nats of a map divided by its sum, 0…ln patches; NaN for a map of zeros.

    Source: arXiv 2509.06461 (CARVE); its own values exceed ln patches, so were not of distributions.
    """
    wide = widen(values)
    return row_entropy(wide / wide.sum(-1, keepdim=True))


def gradient_attention(
    rows: Float[Tensor, "h k"], v: Float[Tensor, "h k d"], grad_z: Float[Tensor, "h d"]
) -> Float[Tensor, "k"]:
    """Mean over heads of A · relu(∂f/∂A) in one query row, ≥ 0; ∂f/∂A = ∂f/∂z · v needs no gradient of a map.

    rows: attention of the last query; v: of the query heads' KV heads; grad_z: ∂ log p(argmax)/∂z at that query.
    Source: arXiv 2502.17422 (grad-att), code. Errors: ValueError for unequal shapes.
    """
    return (widen(rows) * pattern_gradient(rows, v, grad_z).clamp_min(0.0)).mean(0)


def pattern_gradient(
    rows: Float[Tensor, "h k"], v: Float[Tensor, "h k d"], grad_z: Float[Tensor, "h d"]
) -> Float[Tensor, "h k"]:
    """∂f/∂A of one query row from ∂f/∂z: g · v_k of each key, exactly. Errors: ValueError for unequal shapes."""
    require_shape("v", v, *rows.shape, v.shape[-1])
    require_shape("grad_z", grad_z, rows.shape[0], v.shape[-1])
    return (widen(v) @ widen(grad_z)[..., None])[..., 0]


def high_pass(picture: Float[Tensor, "channel rows columns"]) -> Float[Tensor, "rows columns"]:
    """How much detail lies around each pixel, ≥ 0: norm over channels of what a 3 × 3 Gaussian takes away, then the
    median of 7 × 7. Source: arXiv 2502.17422 (pure-grad), code; the norm over channels is added here.
    """
    from scipy import ndimage  # here, since every analysis imports the metrics

    wide = widen(picture).cpu().numpy()
    detail = wide - ndimage.gaussian_filter(wide, (0, 0.8, 0.8), radius=(0, 1, 1), mode="mirror")
    return torch.from_numpy(ndimage.median_filter((detail**2).sum(0) ** 0.5, 7)).to(picture.device)


def pure_gradient(
    question: Float[Tensor, "channel rows columns"],
    general: Float[Tensor, "channel rows columns"],
    picture: Float[Tensor, "channel rows columns"],
    eps: float | int = 0.0,
) -> Float[Tensor, "rows columns"]:
    """‖∂ log p/∂pixel‖ under a question over the same under a general prompt, ≥ 0, 0 where detail is not above its
    median. eps: added to the latter, in units of its mean. Source: arXiv 2502.17422 (pure-grad), code.
    Errors: ValueError for unequal shapes.
    """
    require_shape("general", general, *question.shape)
    require_shape("picture", picture, *question.shape)
    asked, beside, detail = widen(question).norm(dim=0), widen(general).norm(dim=0), high_pass(picture)
    ratio = relative_attention(asked, beside + eps * beside.mean()).nan_to_num()  # 0 of 0 adds nothing
    return ratio.where(detail > detail.median(), 0.0)


def gaze_changes(
    attention: Float[Tensor, "layer h query patch"],
    content_words: Int[Tensor, "words"],
    part: Literal["gain", "loss", "both"] = "gain",
) -> Float[Tensor, "layer patch"]:
    """How much each patch gains as a word is read, relu(A[q] − A[q − 1]), ≥ 0: of each layer the mean over words and
    over the half of the heads (rounded down, at least 1) of most change.

    attention: query 0 is the text token before the question; content_words: tokens of the question, counted from 0.
    part: as controls also what patches lose, relu(A[q − 1] − A[q]), or both, |A[q] − A[q − 1]|.
    Source: arXiv 2510.22067 (GIFT), code. Errors: ValueError without words or for words outside the question.
    """
    _, heads, queries, _ = attention.shape
    require(len(content_words) > 0, "content_words is empty")
    require(
        bool(((content_words >= 0) & (content_words < queries - 1)).all()), "a content word is outside the question"
    )
    change = widen(attention).diff(dim=2)[:, :, content_words.long()]
    change = {"gain": change.clamp_min, "loss": (-change).clamp_min, "both": lambda _: change.abs()}[part](0.0)
    chosen = change.sum((2, 3)).topk(max(1, heads // 2), dim=1).indices
    return change.take_along_dim(chosen[:, :, None, None], 1).mean((1, 2))


class GazeShift(NamedTuple):
    """shift: mean positive change, ≥ 0; saliency: 0…1; multiplier: exp(α · saliency), ≥ 1. All [patch]."""

    shift: Float[Tensor, "patch"]
    saliency: Float[Tensor, "patch"]
    multiplier: Float[Tensor, "patch"]


def gaze_shift(
    attention: Float[Tensor, "layer h query patch"], content_words: Int[Tensor, "words"], alpha: float | int = 5.0
) -> GazeShift:
    """Where the gaze moves to as a question is read; sinks cancel, since they do not move.

    The mean over layers of `gaze_changes`, whose arguments these are; clipped to mean ± 3 standard deviations; scaled
    to 0…1; exp(α ·). An even map has saliency 0. Source: arXiv 2510.22067 (GIFT), code. Errors: as `gaze_changes`.
    """
    shift = gaze_changes(attention, content_words).mean(0)
    margin = 3 * shift.std()
    saliency = scale_to_one(shift.clamp(shift.mean() - margin, shift.mean() + margin))
    return GazeShift(shift, saliency, (alpha * saliency).exp())


def scale_to_one(values: Float[Tensor, "*map"]) -> Float[Tensor, "*map"]:
    """Linearly to 0…1 over the whole map; zeros for a constant one."""
    low, high = values.min(), values.max()
    return (widen(values) - low) / (high - low) if bool(high > low) else torch.zeros_like(widen(values))


class GroundedMap(NamedTuple):
    """heads: (layer, head) of each token, most image attention first. map: [patch], its largest value 1."""

    heads: Int[Tensor, "token top 2"]
    map: Float[Tensor, "patch"]


def grounded_map(attention: Float[Tensor, "layer h token patch"], top: int = 10) -> GroundedMap:
    """TAG: per text token the `top` (layer, head) of all layers with the largest image sum; mean over them and tokens.

    It picks sink heads by construction: compare with the general prompt's map. Source: arXiv 2412.10840 (TAG), code.
    Errors: ValueError where top is not in 1…layers · heads, or nothing is on the image.
    """
    layers, heads, _, _ = attention.shape
    require(1 <= top <= layers * heads, f"top = {top} is not in 1…{layers * heads}")
    rows = widen(attention).flatten(0, 1).transpose(0, 1)  # [token, layer · head, patch]
    order = rows.sum(-1).sort(dim=-1, descending=True, stable=True).indices[:, :top]
    mean = torch.stack([row[index].mean(0) for row, index in zip(rows, order, strict=True)]).mean(0)
    require(bool(mean.max() > 0), "no attention on the image")
    return GroundedMap(torch.stack([order // heads, order % heads], -1), mean / mean.max())


def elbow(values: Float[Tensor, "n"]) -> int:
    """Index of the value at the elbow: farthest from the chord of the curve sorted from below.

    Heads of at least that value are kept. Source: arXiv 2503.06287 (localization heads), code, which keeps those of at
    least that *index*: a slip. Errors: ValueError for fewer than three values.
    """
    require(len(values) >= 3, f"{len(values)} values have no elbow")
    curve, order = widen(values).sort(stable=True)
    place = torch.linspace(0, 1, len(curve), dtype=curve.dtype, device=curve.device)
    below = (curve[0] + (curve[-1] - curve[0]) * place - curve).abs()
    return int(order[below.argmax()])
