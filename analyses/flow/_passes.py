"""Passes without the image, or with another image or question, and how far each moves the heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...probes.model.attention import Edit
from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import drop_image, hide_image, image_columns, moved, predicting
from .. import metrics
from ..common.changed import Change, changed
from ..common.controls import another_image, another_question
from ._divergence_heads import (
    KINDS,
    QUESTION_CHANGED,
)

WAYS = ("dropped", "masked", "swapped")


SUMMED = (*KINDS, "norms", "odd", "even")


def compare(
    subject: Any, seen: Tensor, inputs: Any, places: Tensor, edit: Edit | None = None, k: int = 4
) -> dict[str, Tensor]:
    """Divergences of one more pass from `seen` [b, layers, n, h, d], at `places` Int[b, n] (-1: no token there)."""
    there = places >= 0
    sums: dict[str, list[Tensor]] = {name: [] for name in SUMMED}
    total = torch.zeros(places.shape)

    def on_layer(layer: Layer) -> None:
        nonlocal total
        if not layer.attends:
            for parts in sums.values():
                parts.append(torch.full((len(places), seen.shape[3]), torch.nan))
            return
        z, with_image = z_at(layer.z, places).float().cpu(), seen[:, layer.index]
        sums["norms"].append(_mean((z.norm(dim=-1) + with_image.norm(dim=-1)) / 2, there))
        for kind in KINDS:
            vhd = metrics.head_divergence(with_image, z, kind=kind)
            sums[kind].append(_mean(vhd, there))
            if kind == "l2":
                total = total + metrics.total_divergence(vhd[..., None, :], min(k, vhd.shape[-1]))
                for first, name in enumerate(("odd", "even")):
                    every_other = there & (torch.arange(there.shape[1]) % 2 == first)
                    sums[name].append(_mean(vhd, every_other))

    with tracing(subject, on_layer, dict.fromkeys(subject.decoder.attending, edit) if edit else None):
        subject.forward(inputs)
    rows = {name: torch.stack(parts, 1) for name, parts in sums.items()}
    return rows | {"t_vhd": total.masked_fill(~there, torch.nan)}


def z_at(z: Tensor, places: Tensor) -> Tensor:
    """z [b, p, h, d] at places [b, n] -> [b, n, h, d], zeros where there is none."""
    rows = torch.arange(len(z), device=z.device)[:, None]
    return z[rows, places.to(z.device).clamp(min=0)] * (places >= 0).to(z.device)[..., None, None]


def _mean(vhd: Tensor, there: Tensor) -> Tensor:
    """[b, n, h] -> [b, h], the mean over the tokens that are there; NaN without one."""
    return torch.where(there[..., None], vhd, 0.0).sum(1) / there.sum(1, keepdim=True)


Pass = tuple[str, list[int], Any, Tensor, Edit | None]


def passes_of(subject: Any, batch: Batch, options: Any) -> Iterator[Pass]:
    """Name, examples, inputs, predicting positions and edit of every further pass."""
    everyone, places = list(range(len(batch.examples))), predicting(batch)
    for way in options.ways:
        if way == "dropped":
            blind, stayed = drop_image(subject, batch.inputs)
            yield way, everyone, blind, moved(stayed, places), None
        elif way == "masked":
            yield way, everyone, batch, places, hide_image(image_columns(subject, batch.inputs))
        elif way == "swapped":
            yield _variant(subject, batch, way, another_image)
        else:
            raise ValueError(f"unknown way {way!r}: one of {', '.join(WAYS)}")
    if options.question:
        yield _variant(subject, batch, QUESTION_CHANGED, lambda e: another_question(e, options.question))


def _variant(subject: Any, batch: Batch, name: str, change: Change) -> Pass:
    """A pass over those examples that have a variant, made of the changed examples."""
    made = changed(subject, batch, change)
    if made is None:
        return name, [], None, torch.empty(0), None
    n = predicting(batch).shape[1]
    return name, made.chosen, made.batch, pad(predicting(made.batch), (0, n), value=-1)[:, :n], None
