"""The modality budget: how much of its attention a text or an image row spends on text and on the image.

Shares fall by themselves as more keys come into view: the same number of `uniform_pattern` stands beside each.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._checks import NAN, require, require_mask, require_shape, widen
from .columns import attention_share


def text_behind_image(image: Bool[Tensor, "b p"], mask: Bool[Tensor, "b p"]) -> Bool[Tensor, "b p"]:
    """Real tokens behind the first image token that are no image tokens themselves."""
    require_mask("image", image, *mask.shape)
    return mask & ~image & (image.cumsum(-1) > 0)


def mean_over_queries(values: Float[Tensor, "b h q"], queries: Bool[Tensor, "b q"]) -> Float[Tensor, "b h"]:
    """Mean over an example's chosen rows; NaN without any. Other rows may hold anything, NaN as well."""
    require_mask("queries", queries, values.shape[0], values.shape[2])
    total = widen(values).masked_fill(~queries[:, None], 0.0).sum(-1)
    count = queries.sum(-1, keepdim=True)
    return (total / count).masked_fill(count == 0, NAN)


class ModalityFlows(NamedTuple):
    """Mean attention mass of a group of rows on a group of keys, [b, h], 0…1."""

    text_to_text: Float[Tensor, "b h"]
    text_to_image: Float[Tensor, "b h"]
    image_to_text: Float[Tensor, "b h"]
    image_to_image: Float[Tensor, "b h"]


def modality_flows(
    pattern: Float[Tensor, "b h p p"], image: Bool[Tensor, "b p"], mask: Bool[Tensor, "b p"]
) -> ModalityFlows:
    """The four flows of a layer: mass on all real keys of a modality, mean over rows; text rows lie behind the image.

    NaN where an example has no such rows. The cross flows are the intensity I_l of arXiv 2511.22663, Eq. 1 (AIA;
    text → image for understanding, image → text for generation). The four after arXiv 2411.19628: flows-style, since
    its released code holds no curve. Errors: ValueError for unequal shapes.
    """
    text = mask & ~image
    rows = text_behind_image(image, mask), image & mask
    shares = [attention_share(pattern, columns) for columns in (text, image & mask)]
    return ModalityFlows(*(mean_over_queries(share, queries) for queries in rows for share in shares))


def visual_text_ratio(
    pattern: Float[Tensor, "b h q k"],
    image: Bool[Tensor, "b k"],
    mask: Bool[Tensor, "b k"],
    queries: Bool[Tensor, "b q"],
) -> Float[Tensor, "b h"]:
    """Σ_q Σ_image A / Σ_q Σ_rest A of each head: sums over the chosen rows first, the quotient last; ≥ 0.

    Over all rows it mostly tells sinking heads from the rest: take the last or the generated row. NaN without mass on
    the rest. Source: arXiv 2410.06169 (YOPO), code. Errors: ValueError for unequal shapes.
    """
    visual, other = (attention_share(pattern, columns) for columns in (image & mask, mask & ~image))
    seen, rest = (mean_over_queries(share, queries) for share in (visual, other))
    return (seen / rest).masked_fill(rest <= 0, NAN)


def visual_votes(ratios: Float[Tensor, "n h"], threshold: float | int) -> Int[Tensor, "h"]:
    """In how many of n samples a head's `visual_text_ratio` is above the threshold."""
    return (ratios > threshold).sum(0)


def visual_heads(ratios: Float[Tensor, "n h"], threshold: float | int, share: float | int) -> Bool[Tensor, "h"]:
    """The heads that are kept for vision: above the threshold in more than `share` of the samples, strictly.

    Source: arXiv 2410.06169 (YOPO), code: more than 40 of 100. Errors: ValueError without samples, share outside 0…1.
    """
    require(len(ratios) > 0, "ratios holds no samples")
    require(0 <= share <= 1, f"share = {share} is outside 0…1")
    return visual_votes(ratios, threshold) > share * len(ratios)


class AroundImage(NamedTuple):
    """Mean attention mass of the rows behind the image, [b, h], 0…1, by where it goes; the three sum to 1."""

    before: Float[Tensor, "b h"]
    image: Float[Tensor, "b h"]
    behind: Float[Tensor, "b h"]


def attention_around_image(
    pattern: Float[Tensor, "b h p p"], image: Bool[Tensor, "b p"], mask: Bool[Tensor, "b p"]
) -> AroundImage:
    """Attention of the text behind the image on the text before it, on the image and on the text behind it.

    Text before holds the first token, the sink. Source: arXiv 2406.03496 (Wings), wings-style; its figure is the
    `correlation` of `before` and `behind` over layers. Errors: ValueError for unequal shapes.
    """
    behind = text_behind_image(image, mask)
    groups = mask & ~image & ~behind, image & mask, behind
    return AroundImage(*(mean_over_queries(attention_share(pattern, columns), behind) for columns in groups))


def top_token_overlap(
    a: Float[Tensor, "*batch n"], b: Float[Tensor, "*batch n"], percent: float | int
) -> Float[Tensor, "*batch"]:
    """|T_a ∩ T_b| / |T| of the top `percent` of n tokens by two scores, 0…1; by chance |T|/n.

    |T| is percent · n / 100 rounded down, at least 1. Source: arXiv 2409.14846 (A-VL), style; scores there: the last
    row's attention on image tokens, mean over heads. Errors: ValueError for unequal shapes, percent outside (0, 100].
    """
    require_shape("b", b, *a.shape)
    require(0 < percent <= 100, f"percent = {percent} is outside (0, 100]")
    n = a.shape[-1]
    count = max(1, int(percent * n / 100))
    tops = [torch.zeros_like(x, dtype=torch.bool).scatter(-1, x.topk(count, -1).indices, True) for x in (a, b)]
    return (tops[0] & tops[1]).sum(-1) / count


def one_hop_focus(
    to_text: Float[Tensor, "*batch text text"], to_image: Float[Tensor, "*batch text patch"]
) -> Float[Tensor, "*batch text patch"]:
    """What a text row reads of the image through other text rows of the same head: A[text, text] · A[text, image].

    Row sums lie in 0…1. Source: CMAI's abstract, style. Errors: ValueError for unequal shapes.
    """
    require_shape("to_image", to_image, *to_text.shape[:-1], to_image.shape[-1])
    return widen(to_text) @ widen(to_image)


def attended_patches(
    attention: Float[Tensor, "h question patch"], threshold: float | int
) -> Bool[Tensor, "question patch"]:
    """The patches that a question token attends to: Σ_h A, scaled per token to 0…255, strictly above the threshold.

    A token with one value everywhere chooses none. Source: LSceneLLM, code. Errors: ValueError for other shapes.
    """
    require(attention.ndim == 3, f"attention has shape {tuple(attention.shape)}, expected [h, question, patch]")
    total = widen(attention).sum(0)
    low, high = total.amin(-1, keepdim=True), total.amax(-1, keepdim=True)
    return (total - low) * 255 > threshold * (high - low)
