"""Massive dimensions and the threshold of sinks, learned from batches that a run does not measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...probes.model.subject import Subject
from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.plan import first_condition
from .. import metrics
from .frames import middle


class Massive(NamedTuple):
    """dimensions: of the residual stream. tau: φ of a sink; None without a dimension."""

    dimensions: list[int]
    tau: float | None


def learn_sinks(
    subject: Subject,
    batches: Sequence[Batch],
    dimensions: Sequence[int] | None = None,
    tau: float | None = None,
    min_abs: float = 100.0,
    min_ratio: float = 1000.0,
) -> Massive:
    """What is not given, from batches of every condition.

    τ comes from the first condition; one τ serves all conditions, so that their shares can be compared. min_abs,
    min_ratio: a massive dimension exceeds both, in |x| and in multiples of the median |x| of its state.
    """
    dims = list(dimensions) if dimensions is not None else _find_dimensions(subject, batches, min_abs, min_ratio)
    return Massive(
        dims, tau if tau is not None or not dims else _find_threshold(subject, first_condition(batches), dims)
    )


def image_phi(subject: Subject, batches: Sequence[Batch], dims: list[int]) -> Tensor:
    """φ of the image tokens at the middle state."""
    kept: list[Tensor] = []

    def keep(layer: Layer, batch: Batch) -> None:
        if layer.index == subject.n_layers // 2:
            kept.append(metrics.sink_values(layer.resid_pre, dims).cpu()[batch.where("patches")])

    _watch(subject, batches, keep)
    return torch.cat(kept)


def _watch(subject: Subject, batches: Sequence[Batch], keep: Callable[[Layer, Batch], None]) -> None:
    """Every layer of every batch to `keep`."""
    for batch in batches:
        with tracing(subject, lambda layer, batch=batch: keep(layer, batch)):
            subject.forward(batch)


def _find_dimensions(subject: Subject, batches: Sequence[Batch], min_abs: float, min_ratio: float) -> list[int]:
    peaks: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def keep(layer: Layer, batch: Batch) -> None:
        # One example after the other, so that the mean of the medians does not depend on the batches.
        pairs = zip(layer.resid_pre.split(1), batch.mask.to(layer.resid_pre.device).split(1), strict=True)
        peaks.setdefault(layer.index, []).extend(metrics.dimension_peaks(x, real) for x, real in pairs)

    _watch(subject, batches, keep)
    # Layers may lie on different devices.
    largest = torch.stack([torch.stack([p for p, _ in per]).amax(0).cpu() for per in peaks.values()])
    medians = torch.stack([torch.stack([m for _, m in per]).mean().cpu() for per in peaks.values()])
    return metrics.massive_dimensions(largest, medians, min_abs=min_abs, min_ratio=min_ratio)


def _find_threshold(subject: Subject, batches: Sequence[Batch], dims: list[int]) -> float:
    """Halfway between the φ of first tokens and of median tokens, over the middle half of the layers."""
    firsts, others = [], []

    def keep(layer: Layer, batch: Batch) -> None:
        if layer.index in range(subject.n_layers)[middle(subject.n_layers)]:
            phi = metrics.sink_values(layer.resid_pre, dims).cpu()
            firsts.append(phi[torch.arange(len(phi)), batch.start])
            others.append(phi[batch.mask])

    _watch(subject, batches, keep)
    return metrics.gap_threshold(float(torch.cat(firsts).median()), float(torch.cat(others).median()))
