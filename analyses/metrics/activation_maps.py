"""Maps over the image from states: token activation, by magnitude or phase, and what image states say of a token."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ._checks import NAN, require, require_mask, require_shape, widen
from .localisation import scale_to_one


def token_magnitude(tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Activation of an image's tokens: ‖x − mean token‖₂, scaled to 0…1 over the image.

    Source: arXiv 2310.12973 (LM4Vision), appendix A.3.
    """
    return scale_to_one((widen(tokens) - widen(tokens).mean(0)).norm(dim=-1))


def token_phase(tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Activation by frequency: norm of the phase angles of the Fourier transform over channels, less their mean; 0…1.

    Source: arXiv 2310.12973 (LM4Vision), appendix A.5.
    """
    angles = torch.fft.fft(widen(tokens), dim=-1).angle()
    return scale_to_one((angles - angles.mean(0)).norm(dim=-1))


def iou_by_threshold(
    values: Float[Tensor, "*map"], truth: Bool[Tensor, "*map"], thresholds: Float[Tensor, "t"] | None = None
) -> Float[Tensor, "t"]:
    """|cells above t ∩ truth| / |∪| for t = .1, .2, … .9, strictly above; 0…1, NaN where both are empty.

    The best of them is chosen with the truth: give a random map the same choice, or fix t on other images.
    Source: arXiv 2310.12973 (LM4Vision), appendix. Errors: ValueError for unequal shapes.
    """
    require_mask("truth", truth, *values.shape)
    wide = widen(values).flatten()
    steps = torch.arange(1, 10, dtype=torch.float64, device=wide.device) / 10 if thresholds is None else thresholds
    above = wide > steps.to(wide.dtype)[:, None]
    both, either = (above & truth.flatten()).sum(-1), (above | truth.flatten()).sum(-1)
    return (both / either).masked_fill(either == 0, NAN)


class TokenMap(NamedTuple):
    """raw, interference, cleaned: [patch], ≥ 0. scale: of the interference that was taken away."""

    raw: Float[Tensor, "patch"]
    interference: Float[Tensor, "patch"]
    scale: Float[Tensor, ""]
    cleaned: Float[Tensor, "patch"]


def token_activation_map(
    image_states: Float[Tensor, "patch d"],
    context_states: Float[Tensor, "context d"],
    context_ids: Int[Tensor, "context"],
    target: int,
    unembedding: Float[Tensor, "vocab d"],
) -> TokenMap:
    """TAM: where the image states say the target token, less what they say of the context's tokens.

    States after the final norm. raw: relu(h · W_U[target]); interference: mean of the context tokens' own maps weighted
    by relu(context state · W_U[target]), tokens equal to the target left out (0 without any); scale: by least squares;
    cleaned: relu(raw − scale · interference). Source: arXiv 2506.23270 (TAM), code.
    Errors: ValueError for unequal shapes, ids outside the vocabulary.
    """
    require_shape("context_ids", context_ids, len(context_states))
    ids = context_ids.long()
    require(0 <= target < len(unembedding), f"target = {target} is not in 0…{len(unembedding) - 1}")
    require(bool(((ids >= 0) & (ids < len(unembedding))).all()), f"ids are not all in 0…{len(unembedding) - 1}")
    image, direction = widen(image_states), widen(unembedding[target])
    raw = (image @ direction).clamp_min(0.0)
    relevance = (widen(context_states) @ direction).clamp_min(0.0).masked_fill(ids == target, 0.0)
    maps = (image @ widen(unembedding[ids]).T).clamp_min(0.0)
    interference = _quotient(maps @ relevance, relevance.sum())
    scale = _quotient(raw @ interference, interference @ interference)
    return TokenMap(raw, interference, scale, (raw - scale * interference).clamp_min(0.0))


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return a / b.masked_fill(b == 0, 1.0)


def rank_filter(values: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """TAM's 3 × 3 filter: the window's values in order, averaged by a Gaussian over ranks around the median.

    Its width is the window's standard deviation (divisor 9) / mean: an even window keeps its median, an uneven one its
    mean; 0 where the mean is not positive. Borders are reflected. Source: arXiv 2506.23270 (TAM), code.
    Errors: ValueError for a map of fewer than two rows or columns.
    """
    require(min(values.shape) >= 2, f"map of {tuple(values.shape)}: two rows and columns are needed")
    padded = pad(widen(values)[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
    windows = padded.unfold(0, 3, 1).unfold(1, 3, 1).flatten(2).sort(-1).values
    mean = windows.mean(-1, keepdim=True)
    width = windows.std(-1, correction=0, keepdim=True) / mean.where(mean > 0, 1.0)
    ranks = torch.arange(-4, 5, dtype=windows.dtype, device=windows.device)
    weights = (-0.5 * (ranks / width.clamp_min(1e-6)).square()).softmax(-1)
    return torch.where(mean > 0, weights * windows, 0.0).sum(-1)
