"""Keys that count for more, in forwards and in generation: a highlighted span, the image, its salient patches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.intervene.intervening import intervening
from ..common.controls import Head
from ..common.key_weights import Inputs, gaze_variant, look_variant, pasta_variant


@contextmanager
def pasta(
    subject: Any,
    inputs: Inputs,
    highlighted: Bool[Tensor, "b p"],
    alpha: float = 0.01,
    heads: Collection[Head] | None = None,
) -> Iterator[None]:
    """While active, `inputs` are read, and continued, with the highlighted keys counting for more: `pasta_variant`."""
    with intervening(subject, pasta_variant(subject, inputs, highlighted, alpha, heads), inputs, generated=True):
        yield


@contextmanager
def look(
    subject: Any,
    inputs: Inputs,
    factor: float,
    heads: Collection[Head] | None = None,
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """While active, rows behind the image, generated ones too, read it `factor` times as much: `look_variant`."""
    with intervening(subject, look_variant(subject, inputs, factor, heads, layers), inputs, generated=True):
        yield


@contextmanager
def gaze(
    subject: Any,
    inputs: Inputs,
    saliency: Float[Tensor, "b patch"],
    alpha: float,
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """While active, what lies behind the image reads its salient tokens more: `gaze_variant`."""
    with intervening(subject, gaze_variant(subject, inputs, saliency, alpha, layers), inputs, generated=True):
        yield
