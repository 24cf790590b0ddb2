"""Redistribution of visual attention: what sinks take is given to the image's other tokens, query by query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data.example import UserError
from ..probes.attention import AttentionCall, Edit
from ..probes.following import Shown, following
from ..probes.trace import tracing
from . import metrics
from .columns import random_columns


@dataclass(frozen=True, eq=False)
class Redistributed:
    """What was found in the last prompt. sinks: layer -> Bool[b, n]; sets: layer -> [b, n, 4], see `redistribute`."""

    sinks: dict[int, Bool[Tensor, "b n"]] = field(default_factory=dict)
    sets: dict[int, Float[Tensor, "b n 4"]] = field(default_factory=dict)


def default_layers(n_layers: int) -> list[int]:
    """From layer 2, where sinks can be told, to the last but one."""
    return list(range(2, n_layers - 1))


@contextmanager
def var(
    subject: Any,
    *,
    dimensions: Sequence[int],
    tau: float,
    p: float = 0.6,
    rho: float = 0.5,
    mass: float = 0.2,
    layers: Sequence[int] | None = None,
    columns: str = "sinks",
    seed: int = 0,
) -> Iterator[Redistributed]:
    """While active, image-centric heads give the share p of their attention on sinks to the image's other tokens.

    Sinks of a layer: the prompt's tokens, of text and image, with φ ≥ tau in `dimensions` of the residual that enters
    it (`analyses.sinks.fit` finds both). A head is image-centric for a query with at least `mass` of its attention on
    the image and at least rho of that on tokens that are no sinks. Queries: those behind the image, and all generated
    ones. layers: by default 2 … L−2. Rows keep their sum.
    columns: "sinks", or as a control "random": as many other columns give, the heads being the same (`seed`).
    Source: arXiv 2503.03321 (p = 0.6; rho = 0.5 against hallucination, 0.8 in general; the released code inverts both).
    UserError: no dimensions, numbers out of range, and as `following`.
    """
    _refuse(dimensions, p, rho, mass, columns)
    chosen = default_layers(subject.n_layers) if layers is None else list(layers)
    found = Redistributed()

    def entering(index: int, resid: Tensor) -> Tensor:
        if shown.prompt and not shown.asleep:
            sinks = (metrics.sink_values(resid, list(dimensions)) >= tau) & shown.real.to(resid.device)
            found.sinks[index] = sinks
            found.sets[index] = _sets(shown, sinks, columns, seed + 1000 * index)
        return resid

    def edit_of(index: int) -> Edit:
        return lambda call: call if shown.asleep else _redistributing(call, shown, found.sets[index], (p, rho, mass))

    reading = {(i, "resid_pre"): partial(entering, i) for i in chosen}
    with following(subject) as shown, tracing(subject, edits={i: edit_of(i) for i in chosen}, rewrites=reading):
        yield found


def _refuse(dimensions: Sequence[int], p: float, rho: float, mass: float, columns: str) -> None:
    if not len(dimensions):
        raise UserError("var needs the massive dimensions of the model; it has none, or sinks.fit was not asked")
    for name, value in (("p", p), ("rho", rho), ("mass", mass)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} = {value} is outside 0…1")
    if columns not in ("sinks", "random"):
        raise ValueError(f"columns are 'sinks' or 'random', not {columns!r}")


def _sets(shown: Shown, sinks: Tensor, columns: str, seed: int) -> Tensor:
    """image, image without sinks, givers, takers: [b, n, 4] in float32."""
    image, real = shown.image.to(sinks.device), shown.real.to(sinks.device)
    givers = sinks if columns == "sinks" else random_columns(sinks, real & ~sinks, seed)
    return torch.stack([image, image & ~sinks, givers, image & ~givers], 2).float()


def _redistributing(call: AttentionCall, shown: Shown, sets: Tensor, how: tuple[float, float, float]) -> AttentionCall:
    """The call with its pattern edited in the rows behind the image."""
    sets = sets.to(call.query.device)[:, shown.offset(call) :]
    queries = call.query.shape[2]
    if queries == 1:
        return call.edited(pattern_edit=lambda pattern, rows, part: redistribute(pattern, sets[part], *how))
    active = shown.behind.to(sets.device)[:, -queries:]
    count = int(active.sum(1).max())
    rows = (~active).int().argsort(dim=1, stable=True)[:, :count]

    def edit(pattern: Tensor, rows: Tensor, part: slice) -> Tensor:
        return redistribute(pattern, sets[part], *how, active[part].gather(1, rows))

    return call.edited(pattern_edit=edit, edited_rows=rows)


def redistribute(
    pattern: Float[Tensor, "b h n k"],
    sets: Float[Tensor, "b m 4"],
    p: float,
    rho: float,
    mass: float,
    active: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b h n k"]:
    """`metrics.redistribute_sinks` on rows, in place and in few operations; the first m columns belong to the prompt.

    sets: 1 where a column belongs to the image, the image without sinks, the givers, the takers.
    """
    known = pattern[..., : sets.shape[1]]
    visual, nonsink, given, taken = (known @ sets[:, None]).unbind(-1)
    centric = (visual >= mass) & (nonsink >= rho * visual) & (visual > 0) & (taken > 0)
    if active is not None:
        centric &= active[:, None]
    give = p * centric
    gain = give * given / taken.where(centric, 1.0)
    known.mul_(torch.stack([-give, gain], -1) @ sets[:, None, :, 2:].transpose(2, 3) + 1)
    return pattern
