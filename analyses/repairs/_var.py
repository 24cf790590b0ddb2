"""Redistribution of visual attention: what sinks take is given to the image's other tokens, query by query."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.interventions import EditAttention, Variant
from ...probes.intervene.positions import Positions
from ...probes.intervene.recording import Recording
from ...probes.model.attention import AttentionCall, Edit
from ...probes.observe.decode_tracking import Shown, behind_image, following
from ...probes.observe.tracing import tracing
from ...probes.prompts.image_ablation import image_columns
from .. import metrics
from ._var_columns import Columns, Redistributed


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
    to: str = "image",
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
    to: who takes, of the prompt's tokens that do not give: those of the "image", of the "text", or "all". rho = 0 and
    mass = 0: every head.
    without_visual_sinks: a layer in which no sink lies in an example's image is left as it is ("leave", as by the
    released code), or its other sinks give to the image too ("move", the formula as it is printed).
    columns: "sinks", or as a control "random": as many other columns give, the heads being the same. seed: one
    number for all prompts, or one key for each.
    Source: arXiv 2503.03321; rho = 0.5 against hallucination, 0.8 in general, 0.9 where vision counts. p: 0.6 in the
    released configuration, where it is the share kept (logic.py), so that 0.4 moves. Not copied of that code: sinks
    kept from the first image it saw, the last layer edited as well, NaN where no other image token is read.
    UserError: no dimensions, numbers out of range, and as `following`.
    """
    rule = Rule(p, rho, mass)
    chosen = _require(subject, dimensions, rule, layers)
    columns_of = Columns(Redistributed(), columns, to, without_visual_sinks, seed)

    def entering(index: int, resid: Tensor) -> Tensor:
        if shown.prompt and not shown.asleep:
            columns_of.find(index, metrics.sink_values(resid, list(dimensions)) >= tau, shown.image, shown.real)
        return resid

    def edit_of(index: int) -> Edit:
        return lambda call: call if shown.asleep else _following(call, shown, columns_of.made[index], rule)

    reading = {(i, "resid_pre"): partial(entering, i) for i in chosen}
    with following(subject) as shown, tracing(subject, edits={i: edit_of(i) for i in chosen}, rewrites=reading):
        yield columns_of.found


def var_variant(
    base: Recording,
    *,
    dimensions: Sequence[int],
    tau: float,
    p: float = 0.4,
    rho: float = 0.5,
    mass: float = 0.2,
    to: str = "image",
    without_visual_sinks: str = "leave",
    layers: Sequence[int] | None = None,
    columns: str = "sinks",
    seed: int | Sequence[str] = 0,
) -> tuple[Variant, Redistributed]:
    """What `var` does to recorded prompts, as interventions by layer: only the rows behind the image are edited."""
    rule = Rule(p, rho, mass)
    chosen = _require(base.subject, dimensions, rule, layers)
    columns_of = Columns(Redistributed(), columns, to, without_visual_sinks, seed)
    image = image_columns(base.subject, base.inputs)
    behind = behind_image(image, base.mask)

    def changes(index: int) -> tuple[Any, EditAttention]:
        def entering(rows: Tensor, where: Positions) -> None:
            clean = metrics.sink_values(base.layers[index].resid_pre, list(dimensions)) >= tau
            own = metrics.sink_values(rows, list(dimensions)) >= tau
            columns_of.find(index, where.put_each(own[None], clean[None].clone())[0], image, base.mask)

        def edit(call: AttentionCall, rows: Positions) -> AttentionCall:
            return _redistributing(call, columns_of.made[index], rule, rows.take(behind.to(call.query.device)))

        return _Reading(torch.zeros_like(behind), entering), EditAttention(behind, edit)

    return {index: changes(index) for index in chosen}, columns_of.found


@dataclass(frozen=True, eq=False)
class _Reading:
    """An intervention that changes nothing, at no position: it reads what enters a layer."""

    positions: Bool[Tensor, "b p"]
    read: Callable[[Tensor, Positions], None]
    site: str = "resid_pre"

    def apply(self, tensor: Tensor, where: Positions) -> Tensor:
        self.read(tensor, where)
        return tensor

    def identity(self, base: Recording, layer: int) -> _Reading:
        return self

    def describe(self) -> str:
        return "reading what enters a layer"


def _require(subject: Any, dimensions: Sequence[int], rule: Rule, layers: Sequence[int] | None) -> list[int]:
    """The layers that are edited. UserError: no dimensions, or a number out of range."""
    _refuse(dimensions, rule)
    by_default = [layer for layer in default_layers(subject.n_layers) if layer in subject.decoder.attending]
    return by_default if layers is None else list(layers)


def _refuse(dimensions: Sequence[int], rule: Rule) -> None:
    if not len(dimensions):
        raise UserError("var needs the massive dimensions of the model; it has none, or sinks.fit was not asked")
    for name, value in rule._asdict().items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} = {value} is outside 0…1")


def _following(call: AttentionCall, shown: Shown, columns: metrics.SinkColumns, rule: Rule) -> AttentionCall:
    """The call of a forward that is followed, at the prompt or a generated token."""
    offset, queries = shown.offset(call), call.query.shape[2]
    seen = metrics.SinkColumns(columns.read[:, :, offset:], columns.write[..., offset:], columns.editable)
    # A generated token is behind the image, even one that has the placeholder's id.
    behind = None if queries == 1 else shown.behind.to(call.query.device)[:, -queries:]
    return _redistributing(call, seen, rule, behind)


def _redistributing(
    call: AttentionCall, columns: metrics.SinkColumns, rule: Rule, behind: Bool[Tensor, "b q"] | None
) -> AttentionCall:
    """The call with its pattern edited in the rows behind the image (None: all)."""
    seen = metrics.SinkColumns(*(x.to(call.query.device) for x in columns))
    how: dict[str, Any] = rule._asdict()
    if behind is None or bool(behind.all()):
        return call.edited(pattern_edit=lambda x, rows, part: metrics.redistribute_centric(x, seen.of(part), **how))

    def edit(pattern: Tensor, rows: Tensor, part: slice) -> Tensor:
        return metrics.redistribute_centric(pattern, seen.of(part), active=behind[part].gather(1, rows), **how)

    order = (~behind).int().argsort(dim=1, stable=True)
    return call.edited(pattern_edit=edit, edited_rows=order[:, : int(behind.sum(1).max())])
