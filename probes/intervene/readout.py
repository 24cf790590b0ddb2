"""What is read of variants: the measure of each, chunk by chunk within a budget of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import UserError
from ..model.head import linear_head, vocabulary
from ..observe.layer import Layer
from .intervening import full_forward
from .interventions import Variant
from .measures import Measure
from .positions import Positions
from .proofs import obstacle_of
from .recording import Recording
from .replay import first_layer, replay, replay_at
from .state_memory import state_bytes

if TYPE_CHECKING:
    from ..model.subject import Subject

# Bytes that the variants of a sweep may take beside the clean pass.
BUDGET = 2**30


def read_variants(
    base: Recording, where: Positions, variants: Sequence[Variant], measure: Measure, budget: int
) -> Float[Tensor, "v b ..."]:
    """The measure of every variant, chunk by chunk within the budget."""
    if obstacle_of(base):
        return torch.cat([measured(base, full_forward(base, v)[None], measure, budget) for v in variants])
    order = sorted(range(len(variants)), key=lambda i: first_layer(variants[i]))
    step = max(1, int(budget // bytes_per_variant(base, where)))
    values = []
    for at in range(0, len(order), step):
        resid = replay(base, where, [variants[i] for i in order[at : at + step]])
        values.append(measured(base, resid, measure, budget))
    return torch.cat(values)[torch.argsort(torch.tensor(order))]


@torch.no_grad()
def states_of_variants(
    base: Recording, where: Positions, variants: Sequence[Variant], places: Int[Tensor, "b n"], budget: int = BUDGET
) -> Iterator[tuple[int, Float[Tensor, "b n d"]]]:
    """Each variant's number and its residual behind the last layer at `places`, one at a time and in any order.

    For what reads more than the last position. where: `affected_positions` of everything that the variants change,
    `places` among them.
    """
    if obstacle_of(base):
        yield from ((i, _whole(base, variant, places)) for i, variant in enumerate(variants))
        return
    order = sorted(range(len(variants)), key=lambda i: first_layer(variants[i]))
    step = max(1, int(budget // bytes_per_variant(base, where)))
    for at in range(0, len(order), step):
        chunk = order[at : at + step]
        yield from zip(chunk, replay_at(base, where, [variants[i] for i in chunk], places), strict=True)


def _whole(base: Recording, variant: Variant, places: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    found: list[Tensor] = []

    def keep(layer: Layer) -> None:
        if layer.index == len(base.layers) - 1:
            at = places.to(layer.resid_post.device)
            found.append(layer.resid_post[torch.arange(len(at), device=at.device)[:, None], at])

    full_forward(base, variant, keep)
    return found[0]


def bytes_per_variant(base: Recording, where: Positions) -> int:
    """An estimate of what one replayed variant keeps alive in a layer."""
    subject, (b, s), p = base.subject, where.index.shape, base.mask.shape[1]
    item = torch.finfo(subject.dtype).bits // 8
    per_row = (12 * subject.d_model + 3 * mlp_width(subject)) * item
    rows = p if any(layer.whole for layer in base.layers) else s
    return b * rows * per_row + b * s * (p + s) * (3 * 4 * subject.n_heads + 6) + state_bytes(base)


def mlp_width(subject: Subject) -> int:
    """The MLP's neurons."""
    config = subject.text_config
    return getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None) or 4 * subject.d_model


def measured(base: Recording, resid: Float[Tensor, "v b d"], measure: Measure, budget: int) -> Float[Tensor, "v b ..."]:
    """Final norm, then the measure's direction where it has one, else logits, a few variants at a time."""
    subject, b = base.subject, resid.shape[1]
    head = linear_head(subject.model) if hasattr(measure, "direction") else None
    if head is not None:
        return _along(subject.norm(resid), head, measure)
    step = max(1, budget // (4 * 4 * b * vocabulary(subject.model)))
    values = []
    for part in resid.split(step):
        logits = subject.unembed(subject.norm(part.flatten(0, 1))).float()
        example = torch.arange(b, device=logits.device).repeat(len(part))
        values.append(_shaped(measure(logits, example), len(example)).unflatten(0, (len(part), b)))
    return torch.cat(values).cpu()


def _along(normed: Tensor, head: tuple[Tensor, Tensor | None, float], measure: Any) -> Tensor:
    weight, bias, scale = head
    values = torch.einsum("vbd,bd->vb", normed.float(), measure.direction(weight).float().to(normed.device))
    if bias is not None:
        values = values + measure.direction(bias[:, None])[:, 0].float().to(normed.device)
    return (values * scale).cpu()


def _shaped(values: Any, n: int) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != n:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(f"the measure returned {got}, one number per row is needed: [{n}] or [{n}, m]")
    return values


@torch.no_grad()
def clean_values(base: Recording, measure: Measure) -> Float[Tensor, " b"]:
    """The measure without an edit."""
    return measured(base, base.resid[None], measure, BUDGET)[0]
