"""Maps of what a prompt looks at: attention, beside a general prompt, of chosen heads, of words, of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.prompts.batch import Batch
from .. import metrics
from ._looks import TOP
from ._occlusion import pixels_of
from ._places import Place

ATTENTION, RELATIVE, CONTRAST, FUSION = "attention", "relative attention", "CARVE contrast", "CARVE fusion"
CHOSEN, ALL = "localization heads", "the mean of all heads"
GAZE, TAG, TAG_LESS = "gaze shift", "TAG", "TAG less the general prompt's"
GRADIENT, PURE, OCCLUSION = "grad-att", "pure-grad", "occlusion"
WHOLE = (CHOSEN, TAG, TAG_LESS, PURE, OCCLUSION)  # maps that are of no layer
LAMBDA = 1e-8  # of CARVE's code
Rows = Float[Tensor, "layer h cells"]
Maps = dict[str, Float[Tensor, "layer cells"]]


class Seen(NamedTuple):
    """One example's part of `_looks.seen`, on its own cells; what was not measured is None.

    picture: pixels as the model takes them.
    """

    rows: Rows
    steps: Float[Tensor, "layer s cells"]
    gaze: Float[Tensor, "layer kinds cells"]
    tag: Float[Tensor, "layer words top cells"]
    grad: Float[Tensor, "layer cells"] | None = None
    occlusion: Float[Tensor, "1 cells"] | None = None
    pixels: Float[Tensor, "c y x"] | None = None
    picture: Float[Tensor, "c y x"] | None = None


def seen_of(found: Mapping[str, Tensor], batch: Batch, row: int, place: Place) -> Seen | None:
    """None where nothing was seen of the example."""
    if "rows" not in found or bool(found["rows"][row].isnan().all()):
        return None
    cells = len(place.positions)
    kept = {name: found[name][row, ..., :cells] for name in Seen._fields[:6] if name in found}
    at = pixels_of(batch) if "pixels" in found else None
    if at is not None:
        kept |= {"pixels": found["pixels"][row], "picture": batch.inputs["pixel_values"][at[row]].cpu()}
    return Seen(**kept)


def maps_of(own: Seen, general: Seen | None, heads: Sequence[Sequence[int]], place: Place, options: Any) -> Maps:
    """By method a map of every layer, or one alone of WHOLE; without `general` those that need none.

    relative attention: A(question) / (A(general) + eps · its mean), heads averaged first. CARVE's contrast: with
    λ instead, summed over `window` layers from this one on, NaN where there are not as many; its fusion sums those of
    an answer's tokens, weighted by their number, where there are several.
    """
    mean = own.rows.mean(1)
    maps: Maps = {ATTENTION: mean}
    if not bool(own.gaze[:, 0].isnan().all()):
        maps[GAZE], maps[TAG] = own.gaze[:, 0], of_words(own)[None]
    if heads:
        maps[CHOSEN] = of_heads(own.rows, heads)[None]
    for name, some in ((GRADIENT, own.grad), (OCCLUSION, own.occlusion)):
        if some is not None:
            maps[name] = some
    return maps if general is None else maps | _beside(own, general, maps, place, options)


def _beside(own: Seen, general: Seen, maps: Maps, place: Place, options: Any) -> Maps:
    found = {
        RELATIVE: relative(own.rows.mean(1), general.rows.mean(1), options.eps),
        CONTRAST: fused(own.steps[:, :1], general.steps[:, :1], options.window),
    }
    both = (~own.steps.isnan().all(-1).all(0)) & (~general.steps.isnan().all(-1).all(0))
    if int(both.sum()) > 1:
        found[FUSION] = fused(own.steps[:, both], general.steps[:, both], options.window)
    if TAG in maps and not bool(general.gaze[:, 0].isnan().all()):
        found[TAG_LESS] = (maps[TAG] - of_words(general)).clamp_min(0.0)
    if own.pixels is not None and general.pixels is not None and own.picture is not None:
        pure = metrics.pure_gradient(own.pixels, general.pixels, own.picture.float(), options.eps)
        found[PURE] = torch.nn.functional.adaptive_avg_pool2d(pure[None], place.shape).flatten()[None]
    return found


def relative(
    own: Float[Tensor, "layer cells"], general: Float[Tensor, "layer cells"], eps: float
) -> Float[Tensor, "layer cells"]:
    """A(question) / (A(general) + eps · its mean), layer by layer."""
    return metrics.relative_attention(own, general + eps * general.mean(-1, keepdim=True))


def fused(
    own: Float[Tensor, "layer s cells"], general: Float[Tensor, "layer s cells"], window: int
) -> Float[Tensor, "layer cells"]:
    """CARVE's fusion over the steps of an answer, paired by index, and over a layer and those behind it; NaN where they
    are fewer than `window`. Layers without heads add none.
    """
    contrast = metrics.relative_attention(own, general, LAMBDA).nan_to_num().transpose(0, 1)
    layers = contrast.shape[1]
    window = min(window, layers)
    whole = contrast.new_full((layers, contrast.shape[2]), torch.nan)
    for first in range(layers - window + 1):
        whole[first] = metrics.fused_contrast(contrast[:, first : first + window])
    return whole


def of_words(own: Seen) -> Float[Tensor, "cells"]:
    """TAG's map of the question's words."""
    layers, words = (~own.tag.flatten(1).isnan().all(1)), (~own.tag.flatten(2).isnan().all(2).all(0))
    there = own.tag[layers][:, words].transpose(1, 2)
    return metrics.grounded_map(there, min(TOP, there.shape[0] * there.shape[1])).map


def of_heads(rows: Rows, heads: Sequence[Sequence[int]]) -> Float[Tensor, "cells"]:
    """The mean map of some (layer, head)."""
    layers, places = zip(*heads, strict=True)
    return rows[list(layers), list(places)].mean(0)
