"""Which attention edges a flow of information is: from where, to where, and what else could be cut in its place."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from ...probes.prompts.batch import Batch
from ..common.controls import example_keys, random_positions

PATCHES, POSITIONS = "random patches", "random positions"


@dataclass(frozen=True, eq=False)
class Flow:
    """Edges source → target, Bool[b, p] each; there: the examples that have such edges, Bool[b].

    drawn: the name of a control and its sources Bool[draws, b, p], as many positions as the flow's own; the examples
    for which enough other positions exist, Bool[b].
    """

    name: str
    source: Bool[Tensor, "b p"]
    target: Bool[Tensor, "b p"]
    there: Bool[Tensor, " b"]
    drawn: tuple[str, Tensor, Tensor] | None = field(default=None)


def flows_of(batch: Batch, draws: int, seed: int = 0) -> list[Flow]:
    """The flows that this batch's roles and marks allow (arXiv 2411.18620; on text, from each mark to the last)."""
    last = batch.final
    first = torch.zeros_like(batch.mask).scatter(1, batch.start[:, None], True)
    edges = _image_edges(batch, last) if bool(batch.where("image").any()) else _text_edges(batch, last)
    flows = []
    for name, source, target, pool in edges:
        source = source & ~first & (batch.mask.int().cumsum(1) <= _reach(target, batch)[:, None])
        there = source.any(1) & target.any(1)
        if not bool(there.any()):
            continue
        allowed = (batch.where("image") if pool == PATCHES else batch.mask & ~first & ~target) & ~source
        drawn = None if not pool else (pool, *_draw(batch, name, source, allowed, draws, seed))
        flows.append(Flow(name, source, target, there, drawn))
    return flows


def _reach(target: Tensor, batch: Batch) -> Tensor:
    """How many real positions the last target position can see: sources behind it are none."""
    places = batch.mask.int().cumsum(1)
    return (places * target).amax(1)


Edge = tuple[str, Tensor, Tensor, str]


def _image_edges(batch: Batch, last: Tensor) -> list[Edge]:
    image, question = batch.where("image"), batch.where("question")
    picture = image | batch.where("image_separator")  # what stands between its parts reads them, and passes them on
    text = (batch.where("text") | batch.where("instruction")) & ~last
    edges: list[Edge] = [
        ("question → last", question, last, POSITIONS),
        ("image → last", picture, last, ""),
        ("other text → last", text, last, POSITIONS),
        ("last → last", last, last, ""),
        ("image → question", picture, question, ""),
    ]
    if {"true_option", "false_option"} <= set(batch.marks):
        edges += _option_edges(batch, question, last)
    if "asked_object" in batch.marks:
        asked = batch.where("asked_object") & image
        has = asked.any(1, keepdim=True)
        edges += [
            ("asked object → question", asked, question, PATCHES),
            ("other patches → question", image & ~asked & has, question, ""),
        ]
    return edges


def _option_edges(batch: Batch, question: Tensor, last: Tensor) -> list[Edge]:
    """Where a question ends with its options: the right one, the wrong one, and the question without both."""
    right, wrong = batch.where("true_option"), batch.where("false_option")
    sources = {"question without options": question & ~right & ~wrong, "true option": right, "false option": wrong}
    return [(f"{name} → last", source, last, POSITIONS) for name, source in sources.items()]


def _text_edges(batch: Batch, last: Tensor) -> list[Edge]:
    named = torch.zeros_like(batch.mask)
    edges: list[Edge] = []
    for name, mark in batch.marks.items():
        named = named | mark
        edges.append((f"{name.replace('_', ' ')} → last", mark & ~last, last, POSITIONS))
    rest = batch.mask & ~named & ~last & (batch.where("special") == 0)
    return [*edges, ("other text → last", rest, last, POSITIONS), ("last → last", last, last, "")]


def _draw(
    batch: Batch, name: str, source: Tensor, allowed: Tensor, draws: int, seed: int
) -> tuple[Bool[Tensor, "draws b p"], Bool[Tensor, " b"]]:
    """As many random positions of `allowed` as `source` has; seeded by the example, so that batches do not matter."""
    enough = (allowed.sum(1) >= source.sum(1)) & source.any(1)
    keys = [example_keys([f"{example.id}|{name}" for example in batch.examples], seed + draw) for draw in range(draws)]
    drawn = [random_positions(source, allowed, one) & enough[:, None] for one in keys]
    return torch.stack(drawn) if drawn else source.new_zeros(0, *source.shape), enough


def filled(source: Tensor, target: Tensor, there: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Masks in which examples without the flow cut an edge of their own (last → last); their values are left out."""
    last = batch.final
    keep = there[:, None]
    return torch.where(keep, source, last), torch.where(keep, target, last)
