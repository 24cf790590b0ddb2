"""Rows of routes: what is summed on the way, where the flow is in each state, strongest edges, effects of heads."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.intervene.attribution import attribution_sweep
from ...probes.intervene.measures import logit_difference
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ..common.changed import changed
from ._route_knockout import read_by_last
from ._route_parts import Place
from ._route_walk import EDGE, Route, walk

FIELDS = (*EDGE, "source id", "target id")
LAST, FIRST, OTHERS = "last token", "first token", "other text"


def recorded_layers(subject: Any, batch: Batch) -> list[Layer]:
    """Every layer's tensors of one forward."""
    layers: list[Layer] = []
    with tracing(subject, layers.append):
        subject.forward(batch)
    return layers


def route_rows(subject: Any, batch: Batch, options: Any) -> dict[str, Tensor]:
    """The route of every prompt, and of its control by names that end in "|null"."""
    layers, roles, found = recorded_layers(subject, batch), roles_of(batch), []
    for example, one in enumerate(batch.examples):
        real = batch.mask[example].nonzero()[:, 0].to(layers[0].resid_pre.device)
        at = {name: mask[example][batch.mask[example]] for name, mask in roles.items()}
        route = walk(subject, layers, Place(example, real), options.threshold)
        null = walk(subject, layers, Place(example, real, f"{one.id}|{options.seed}"), options.threshold)
        rows = _of_route(route, at, "") | _of_route(null, at, "|null")
        rows |= {f"tokens|{name}": mask.sum().float() for name, mask in at.items()}
        rows["edges"] = strongest_edges(route, batch.inputs["input_ids"][example, real.cpu()], options.edges)
        found.append(rows)
    return {name: torch.stack([one[name] for one in found]) for name in found[0]}


def _of_route(route: Route, at: dict[str, Tensor], suffix: str) -> dict[str, Tensor]:
    rows = {name: getattr(route, name) for name in ("sums", "importance", "previous", "on")}
    flows = {f"flow|{name}": route.flow[:, mask].sum(1) for name, mask in at.items()}
    flows |= {f"read|{name}": read_by_last(route, mask) for name, mask in at.items()}
    return {f"{name}{suffix}": value for name, value in (rows | flows).items()}


def roles_of(batch: Batch) -> dict[str, Bool[Tensor, "b p"]]:
    """Every real token once: the last, the first, then marks of the task in their order, the image, the rest."""
    first = torch.zeros_like(batch.mask).scatter(1, batch.start[:, None], True)
    asked = {LAST: batch.final, FIRST: first}
    asked |= {name.replace("_", " "): mark for name, mark in batch.marks.items()}
    asked |= {"image": batch.where("image"), OTHERS: batch.mask}
    left, found = batch.mask.clone(), {}
    for name, mask in asked.items():
        found[name] = mask & left
        left = left & ~mask
    return {name: mask for name, mask in found.items() if bool(mask.any())}


def strongest_edges(route: Route, ids: Tensor, count: int) -> Float[Tensor, "edges field"]:
    """The kept edges through which most of the output was followed, strongest first; NaN behind the end."""
    edges, names = route.edges, list(EDGE)
    kept = edges[edges[:, names.index("followed")].argsort(descending=True, stable=True)[:count]]
    words = [ids.float()[kept[:, names.index(end)].long()] for end in ("source", "target")]
    whole = kept.new_full((count, len(FIELDS)), torch.nan)
    whole[: len(kept)] = torch.cat([kept, torch.stack(words, 1).to(kept)], 1)
    return whole


def effect_rows(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """Row "effect" [b, layers, heads]: by how many logits the answer moves against the wrong one where a head writes
    what it writes for the example's twin, estimated from gradients. Nothing without twins of equal length.
    """
    told = changed(subject, batch, lambda e: e if e.corrupt is not None and e.wrong else None)
    if told is None:
        return {}
    form = told.batch.form
    twins = subject.batch([e.corrupt for e in told.batch.examples], **form)
    same = (told.batch.mask.sum(1) == twins.mask.sum(1)).tolist()
    usable = {e.id for e, fits in zip(told.batch.examples, same, strict=True) if fits}
    told = changed(subject, batch, lambda e: e if e.id in usable else None)
    if told is None:
        return {}
    own, twins = told.batch, subject.batch([e.corrupt for e in told.batch.examples], **form)
    measure = logit_difference(own.answers, own.wrong)
    swept = attribution_sweep(subject, own, twins, "z", positions=own.mask, measure=measure)
    return {"effect": told.spread((swept.values - swept.clean).movedim(-1, 0))}
