"""Maps of attention: of the last position, of it beside a general prompt, of chosen heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.example import Example
from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import stack_layers
from .. import metrics
from ._places import Place, on_cells, places

ATTENTION, RELATIVE, CONTRAST = "attention", "relative attention", "CARVE contrast"
CHOSEN, ALL = "localization heads", "the mean of all heads"
LAMBDA = 1e-8  # of CARVE's code
Rows = Float[Tensor, "layer h cells"]


def last_rows(layer: Layer, batch: Batch, where: Sequence[Place | None]) -> Tensor | None:
    """What the last position of each prompt gives to the cells of its map, [b, h, cells]; None without heads."""
    if not layer.attends:
        return None
    pattern = layer.pattern(batch.last.to(layer.resid_pre.device)[:, None])[:, :, 0]
    return on_cells(pattern, where)


def attention_rows(subject: Any, batch: Batch, where: Sequence[Place | None]) -> Float[Tensor, "b layer h cells"]:
    """`last_rows` of every layer, by one observed pass."""
    kept: list[dict[str, Tensor | None]] = []
    with tracing(subject, lambda layer: kept.append({"rows": last_rows(layer, batch, where)})):
        subject.forward(batch)
    return stack_layers(kept)["rows"]


def rows_of(
    subject: Any, batch: Batch, name: str, change: Callable[[Example], Example | None]
) -> Float[Tensor, "b layer h cells"] | None:
    """One more pass: `last_rows` of the examples as `change` makes them, NaN where it gives None; None without any."""
    changed = [change(example) for example in batch.examples]
    chosen = [i for i, example in enumerate(changed) if example is not None]
    if not chosen:
        return None
    other = subject.batch([example for example in changed if example is not None], **batch.form)
    found = attention_rows(subject, other, places(other, name))
    whole = found.new_full((len(changed), *found.shape[1:]), torch.nan)
    whole[chosen] = found
    return whole


def attention_maps(
    rows: Rows, general: Rows | None, heads: Sequence[Sequence[int]], window: int, eps: float
) -> dict[str, Float[Tensor, "layer cells"]]:
    """By method a map of every layer, or one alone for chosen heads.

    relative attention: A(question) / (A(general) + eps · its mean), heads averaged first. CARVE's contrast: with
    λ instead, summed over `window` layers from this one on; NaN where there are not as many.
    """
    mean = rows.mean(1)
    maps = {ATTENTION: mean, ALL: rows.nanmean((0, 1))[None]}
    if heads:
        maps[CHOSEN] = of_heads(rows, heads)[None]
    if general is None:
        return maps
    beside = general.mean(1)
    maps[RELATIVE] = metrics.relative_attention(mean, beside + eps * beside.mean(-1, keepdim=True))
    contrast = metrics.relative_attention(mean, beside, LAMBDA)
    return maps | {CONTRAST: windows(contrast, min(window, len(contrast)))}


def windows(contrast: Float[Tensor, "layer cells"], window: int) -> Float[Tensor, "layer cells"]:
    """Sums over a layer and those behind it, NaN where they are fewer than `window`. Layers without heads add none."""
    whole = contrast.new_full(contrast.shape, torch.nan)
    whole[: len(contrast) - window + 1] = contrast.nan_to_num().unfold(0, window, 1).sum(-1)
    return whole


def of_heads(rows: Rows, heads: Sequence[Sequence[int]]) -> Float[Tensor, "cells"]:
    """The mean map of some (layer, head)."""
    layers, places = zip(*heads, strict=True)
    return rows[list(layers), list(places)].mean(0)
