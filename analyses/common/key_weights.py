"""Which keys count for more: variants of `WeighKeys` for a highlighted span (PASTA), an image, its salient patches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.interventions import Variant, WeighKeys
from ...probes.observe.decode_tracking import behind_image
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import image_columns, real_positions
from .controls import Head

Inputs = Mapping[str, Any] | Batch
GAZE_LAYERS = (12, 22)  # of 32, arXiv 2510.22067


def pasta_variant(
    subject: Any,
    inputs: Inputs,
    highlighted: Bool[Tensor, "b p"],
    alpha: float = 0.01,
    heads: Collection[Head] | None = None,
) -> Variant:
    """Every row reads prompt keys outside the highlighted ones alpha times as much (PASTA), in these heads or all.

    Several spans count as one; generated keys keep their weight. Source: arXiv 2311.02262, code, which adds ln alpha
    once a span, so that spans damp each other: not copied.
    UserError: alpha not above 0, a highlighted position outside the prompt, a prompt without one, an unknown head.
    """
    require_positive("alpha", alpha)
    real = real_positions(subject.prepare(inputs))
    return highlighting(subject, real, highlighted, alpha, heads)


def highlighting(
    subject: Any,
    real: Bool[Tensor, "b p"],
    highlighted: Bool[Tensor, "b p"],
    alpha: float,
    heads: Collection[Head] | None = None,
    rows: Bool[Tensor, "b p"] | None = None,
) -> Variant:
    """`pasta_variant` of prompts whose real positions are known, for these rows or all."""
    highlighted = highlighted.to(real.device)
    if highlighted.shape != real.shape:
        raise UserError(f"highlighted is {[*highlighted.shape]}, the batch {[*real.shape]}: give Bool[b, p] of it")
    if outside := (highlighted & ~real).any(1).nonzero()[:, 0].tolist():
        raise UserError(f"prompt {outside[0]}: a highlighted position lies outside of it, on padding")
    if bare := (~highlighted.any(1)).nonzero()[:, 0].tolist():
        raise UserError(f"prompt {bare[0]} has no highlighted position: nothing would be told from the rest")
    weights = torch.where(real & ~highlighted, alpha, 1.0)
    return {
        layer: (WeighKeys(rows, weights, chosen),) for layer, chosen in heads_by_layer(subject, heads=heads).items()
    }


def look_variant(
    subject: Any,
    inputs: Inputs,
    factor: float,
    heads: Collection[Head] | None = None,
    layers: Sequence[int] | None = None,
) -> Variant:
    """Rows behind the image read its keys `factor` times as much: "look more at the image", below 1 less.

    UserError: a factor not above 0, a prompt without an image, a head or layer that does not exist.
    """
    require_positive("factor", factor)
    image, behind = _image_and_behind(subject, inputs)
    weights = torch.where(image, factor, 1.0)
    return {
        layer: (WeighKeys(behind, weights, chosen),) for layer, chosen in heads_by_layer(subject, layers, heads).items()
    }


def gaze_variant(
    subject: Any,
    inputs: Inputs,
    saliency: Float[Tensor, "b patch"],
    alpha: float,
    layers: Sequence[int] | None = None,
) -> Variant:
    """Rows behind the image read each of its keys exp(alpha · saliency) times as much, in all heads of some layers.

    saliency: of each image token in order (`metrics.gaze_shift` scales it to 0…1), what lies behind a prompt's last
    one unread. layers: by default 12 … 22 of 32, scaled to the model. GIFT-style: the paper (arXiv 2510.22067) weighs
    the question's tokens as well, which was not read.
    UserError: alpha not above 0, fewer numbers than image tokens, numbers that are none, as `look_variant`.
    """
    require_positive("alpha", alpha)
    image, behind = _image_and_behind(subject, inputs)
    most = int(image.sum(1).max())
    if len(saliency) != len(image) or saliency.shape[1] < most:
        raise UserError(f"saliency is {[*saliency.shape]}, but {len(image)} prompts have up to {most} image tokens")
    place = (image.cumsum(1) - 1).clamp(min=0)
    told = saliency.to(image.device, torch.float32).gather(1, place.clamp(max=saliency.shape[1] - 1))
    weights = torch.where(image, (alpha * told).exp(), 1.0)
    layers = gaze_layers(subject.n_layers) if layers is None else layers
    return {layer: (WeighKeys(behind, weights, chosen),) for layer, chosen in heads_by_layer(subject, layers).items()}


def gaze_layers(n_layers: int) -> list[int]:
    """Layers 12 … 22 of 32, scaled to so many."""
    first, last = (round(layer * n_layers / 32) for layer in GAZE_LAYERS)
    return list(range(first, min(last, n_layers - 1) + 1))


def heads_by_layer(
    subject: Any, layers: Sequence[int] | None = None, heads: Collection[Head] | None = None
) -> dict[int, tuple[int, ...] | None]:
    """Of each layer with attention the chosen heads, None for all of them; layers and heads None: every one.

    UserError: one that does not exist.
    """
    attending = list(subject.decoder.attending)
    if unknown := [layer for layer in layers or () if layer not in range(subject.n_layers)]:
        raise UserError(f"no layer {unknown[0]}: there are 0…{subject.n_layers - 1}")
    inside = [layer for layer in attending if layers is None or layer in layers]
    if heads is None:
        return dict.fromkeys(inside)
    for layer, head in heads:
        if layer not in attending or head not in range(subject.n_heads):
            raise UserError(f"no head {layer}.{head} in {subject.n_layers} × {subject.n_heads} heads (layer.head)")
    chosen = {layer: tuple(sorted({head for of, head in heads if of == layer})) for layer in inside}
    return {layer: some for layer, some in chosen.items() if some}


def require_positive(name: str, value: float) -> None:
    """UserError: a weight that is not above 0."""
    if not value > 0:
        raise UserError(f"{name} = {value:g}: a number above 0 (keys that nobody may read are a Knockout)")


def _image_and_behind(subject: Any, inputs: Inputs) -> tuple[Bool[Tensor, "b p"], Bool[Tensor, "b p"]]:
    read = subject.prepare(inputs)
    image = image_columns(subject, read)
    return image, behind_image(image, real_positions(read))
