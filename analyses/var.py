"""Redistribution of visual attention: what sinks take is given to the image's other tokens, query by query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data.example import UserError
from ..probes.attention import AttentionCall, Edit
from ..probes.following import Shown, following
from ..probes.trace import tracing
from . import metrics
from .columns import random_columns

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Redistributed:
    """What was found in the last prompt. sinks: layer -> Bool[b, n]; sets: layer -> [b, n, 4], see `prepared`."""

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
    columns_of: dict[int, Columns] = {}

    def entering(index: int, resid: Tensor) -> Tensor:
        if shown.prompt and not shown.asleep:
            sinks = (metrics.sink_values(resid, list(dimensions)) >= tau) & shown.real.to(resid.device)
            found.sinks[index] = sinks
            found.sets[index] = _sets(shown, sinks, columns, seed + 1000 * index)
            columns_of[index] = prepared(found.sets[index], rho, mass)
        return resid

    def edit_of(index: int) -> Edit:
        return lambda call: call if shown.asleep else _redistributing(call, shown, columns_of[index], p)

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


class Columns(NamedTuple):
    """The prompt's columns as a row's attention is summed over them, made once a prompt.

    read: image, its tokens without sinks less rho of all, takers, givers, [b, 1, m, 4]. floor: what the first three
    sums of an image-centric row reach, [3]. write: givers and takers, [b, 1, 2, m].
    """

    read: Float[Tensor, "b 1 m 4"]
    floor: Float[Tensor, "3"]
    write: Float[Tensor, "b 1 2 m"]

    def at(self, device: torch.device, offset: int) -> Columns:
        """Those from `offset` on, on a device."""
        return Columns(self.read.to(device)[:, :, offset:], self.floor.to(device), self.write.to(device)[..., offset:])

    def of(self, examples: slice) -> Columns:
        return Columns(self.read[examples], self.floor, self.write[examples])


def prepared(sets: Float[Tensor, "b m 4"], rho: float, mass: float) -> Columns:
    """From 1 where a column belongs to the image, to the image without sinks, to the givers, to the takers."""
    image, nonsink, givers, takers = sets.unbind(2)
    read = torch.stack([image, nonsink - rho * image, takers, givers], 2)
    floor = read.new_tensor([max(mass, TINY), 0.0, TINY])
    return Columns(read[:, None], floor, torch.stack([givers, takers], 1)[:, None])


def _redistributing(call: AttentionCall, shown: Shown, columns: Columns, p: float) -> AttentionCall:
    """The call with its pattern edited in the rows behind the image."""
    columns = columns.at(call.query.device, shown.offset(call))
    queries = call.query.shape[2]
    if queries == 1:
        return call.edited(pattern_edit=lambda pattern, rows, part: redistribute(pattern, columns.of(part), p))
    active = shown.behind.to(call.query.device)[:, -queries:]
    count = int(active.sum(1).max())
    rows = (~active).int().argsort(dim=1, stable=True)[:, :count]

    def edit(pattern: Tensor, rows: Tensor, part: slice) -> Tensor:
        return redistribute(pattern, columns.of(part), p, active[part].gather(1, rows))

    return call.edited(pattern_edit=edit, edited_rows=rows)


def redistribute(
    pattern: Float[Tensor, "b h n k"], columns: Columns, p: float, active: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b h n k"]:
    """`metrics.redistribute_sinks` on rows, in place, in few operations; the first m columns belong to the prompt."""
    known = pattern[..., : columns.read.shape[2]]
    sums = known @ columns.read
    centric = (sums[..., :3] >= columns.floor).all(-1)
    if active is not None:
        centric &= active[:, None]
    give = centric * p
    gain = give * sums[..., 3] / sums[..., 2].clamp_min(TINY)
    known.addcmul_(known, torch.stack([-give, gain], -1) @ columns.write)
    return pattern
