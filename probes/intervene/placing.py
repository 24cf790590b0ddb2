"""Where an intervention acts in a site's tensor: its positions, heads and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..sites import SITES, require_writable
from .positions import Positions


def require_place(site: str, heads: tuple[int, ...] | None, what: str) -> None:
    """UserError: a site that cannot be changed, or heads of a site that has none."""
    require_writable(site, what)
    if heads is not None and "head" not in SITES[site].axes:
        raise UserError(f"cannot {what} heads of {site!r}, which has none: z has them")


def spread(value: float | Tensor, tensor: Float[Tensor, "b s ..."], where: Positions, what: str) -> float | Tensor:
    """A value that broadcasts to the site's [b, p, ...], brought to the rows, dtype and device of `tensor`.

    what: what the intervention does, for errors. UserError: a value that does not broadcast.
    """
    if not isinstance(value, Tensor):
        return value
    _require_shape(list(value.shape), [*where.chosen.shape, *tensor.shape[2:]], what)
    value = value.to(tensor)
    if value.ndim <= tensor.ndim - 2:
        return value
    return where.take(value.reshape(*[1] * (tensor.ndim - value.ndim), *value.shape))


def _require_shape(given: list[int], site: list[int], what: str) -> None:
    """UserError: a shape that does not broadcast to the site's [b, p, ...]; `Positions.take` looks at p."""
    whole = [1] * (len(site) - len(given)) + given
    if len(given) > len(site) or any(whole[i] not in (1, full) for i, full in enumerate(site) if i != 1):
        raise UserError(f"{what}: a tensor {given} does not fit the site's {site} ([b, p, ...])")


def at_positions(
    intervention: Any, tensor: Float[Tensor, "b s ..."], changed: float | Tensor, where: Positions
) -> Float[Tensor, "b s ..."]:
    """`changed` at the intervention's positions and heads, `tensor` elsewhere."""
    chosen = torch.ones(1, 1, dtype=torch.bool, device=tensor.device)
    if intervention.positions is not None:
        _require_positions(intervention, where)
        chosen = where.take(intervention.positions.to(tensor.device))
    chosen = chosen.reshape(*chosen.shape, *[1] * (tensor.ndim - 2))
    if intervention.heads is not None:
        chosen = chosen & members(intervention.heads, tensor.shape[2], "head", tensor)[:, None]
    return torch.where(chosen, changed, tensor)


def _require_positions(intervention: Any, where: Positions) -> None:
    """UserError: positions of another batch."""
    given, batch = list(intervention.positions.shape), list(where.chosen.shape)
    if len(given) != 2 or given[0] not in (1, batch[0]) or given[1] not in (1, batch[1]):
        raise UserError(f"{intervention.describe()}: its positions are {given}, the batch is {batch}: give Bool[b, p]")


def members(chosen: Sequence[int], n: int, what: str, tensor: Tensor) -> Bool[Tensor, " n"]:
    """Which of `n` are chosen, on the tensor's device. UserError: one that does not exist."""
    unknown = [i for i in chosen if i not in range(n)]
    if unknown:
        raise UserError(f"no {what} {unknown[0]}: there are 0…{n - 1}")
    members = torch.zeros(n, dtype=torch.bool, device=tensor.device)
    for i in chosen:  # a list of numbers would be brought to the device, which waits for it
        members[i] = True
    return members


def one_line(self: Any) -> str:
    """The `__repr__` of interventions: what Jupyter shows in place of their tensors."""
    return f"{type(self).__name__}({self.describe()})"
