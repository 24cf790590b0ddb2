"""Redistribution of visual attention: what sinks take is given to the image's other tokens, query by query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Bool
from torch import Tensor

from ...data.errors import UserError
from ...probes.model.attention import AttentionCall, Edit
from ...probes.observe.decode_tracking import Shown, following
from ...probes.observe.tracing import tracing
from .. import metrics
from ..common.controls import layer_keys, random_positions


@dataclass(frozen=True, eq=False)
class Redistributed:
    """What was found in the last prompt, by layer. sinks: Bool[b, n]. visual: Bool[b], whether a sink lies in the
    image. givers: Bool[b, n], the columns that give: the sinks, or the random ones of the control.
    """

    sinks: dict[int, Bool[Tensor, "b n"]] = field(default_factory=dict)
    visual: dict[int, Bool[Tensor, " b"]] = field(default_factory=dict)
    givers: dict[int, Bool[Tensor, "b n"]] = field(default_factory=dict)


class Rule(NamedTuple):
    """Which rows are edited, and how much they move; see `var`."""

    p: float
    rho: float
    mass: float


def default_layers(n_layers: int) -> list[int]:
    """From layer 2, where sinks can be told, to the last but one."""
    return list(range(2, n_layers - 1))


@contextmanager
def var(
    subject: Any,
    *,
    dimensions: Sequence[int],
    tau: float,
    p: float = 0.4,
    rho: float = 0.5,
    mass: float = 0.2,
    without_visual_sinks: str = "leave",
    layers: Sequence[int] | None = None,
    columns: str = "sinks",
    seed: int | Sequence[str] = 0,
) -> Iterator[Redistributed]:
    """While active, image-centric heads give the share p of their attention on sinks to the image's other tokens.

    Sinks of a layer: the prompt's tokens, of text and image, with φ ≥ tau in `dimensions` of the residual that enters
    it (`analyses.sinks.fit` finds both). A head is image-centric for a query with at least `mass` of its attention on
    the image and at least rho of that on tokens that are no sinks. Queries: those behind the image, and all generated
    ones. layers: by default 2 … L−2. Rows keep their sum.
    without_visual_sinks: a layer in which no sink lies in an example's image is left as it is ("leave", as by the
    released code), or its other sinks give to the image too ("move", the formula as it is printed).
    columns: "sinks", or as a control "random": as many other columns give, the heads being the same. seed: one
    number for all prompts, or one key for each.
    Source: arXiv 2503.03321; rho = 0.5 against hallucination, 0.8 in general. p: 0.6 in the released configuration,
    where it is the share kept (logic.py), so that 0.4 moves. Not copied of that code: sinks kept from the first image
    it saw, the last layer edited as well, NaN where no other image token is read.
    UserError: no dimensions, numbers out of range, and as `following`.
    """
    rule = Rule(p, rho, mass)
    _refuse(dimensions, rule)
    if columns not in ("sinks", "random") or without_visual_sinks not in ("leave", "move"):
        raise ValueError(f"unknown columns {columns!r} or without_visual_sinks {without_visual_sinks!r}")
    by_default = [layer for layer in default_layers(subject.n_layers) if layer in subject.decoder.attending]
    chosen = by_default if layers is None else list(layers)
    found, columns_of = Redistributed(), dict[int, metrics.SinkColumns]()

    def entering(index: int, resid: Tensor) -> Tensor:
        if shown.prompt and not shown.asleep:
            image, real = shown.image.to(resid.device), shown.real.to(resid.device)
            sinks = (metrics.sink_values(resid, list(dimensions)) >= tau) & real
            found.sinks[index], found.visual[index] = sinks, (sinks & image).any(1)
            found.givers[index] = sinks
            if columns == "random":
                found.givers[index] = random_positions(sinks, real, layer_keys(seed, len(sinks), index))
            columns_of[index] = metrics.sink_columns(
                image, sinks, found.givers[index], without_visual_sinks=without_visual_sinks
            )
        return resid

    def edit_of(index: int) -> Edit:
        return lambda call: call if shown.asleep else _redistributing(call, shown, columns_of[index], rule)

    reading = {(i, "resid_pre"): partial(entering, i) for i in chosen}
    with following(subject) as shown, tracing(subject, edits={i: edit_of(i) for i in chosen}, rewrites=reading):
        yield found


def _refuse(dimensions: Sequence[int], rule: Rule) -> None:
    if not len(dimensions):
        raise UserError("var needs the massive dimensions of the model; it has none, or sinks.fit was not asked")
    for name, value in rule._asdict().items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} = {value} is outside 0…1")


def _redistributing(call: AttentionCall, shown: Shown, columns: metrics.SinkColumns, rule: Rule) -> AttentionCall:
    """The call with its pattern edited in the rows behind the image."""
    device, offset, queries = call.query.device, shown.offset(call), call.query.shape[2]
    read, write, editable = (x.to(device) for x in columns)
    seen = metrics.SinkColumns(read[:, :, offset:], write[..., offset:], editable)
    how: dict[str, Any] = rule._asdict()
    if queries == 1:  # a generated token is behind the image, even one that has the placeholder's id
        return call.edited(pattern_edit=lambda x, rows, part: metrics.redistribute_centric(x, seen.of(part), **how))
    behind = shown.behind.to(device)[:, -queries:]

    def edit(pattern: Tensor, rows: Tensor, part: slice) -> Tensor:
        return metrics.redistribute_centric(pattern, seen.of(part), active=behind[part].gather(1, rows), **how)

    order = (~behind).int().argsort(dim=1, stable=True)
    return call.edited(pattern_edit=edit, edited_rows=order[:, : int(behind.sum(1).max())])
