"""Which positions of a batch are computed: those that an intervention reaches, and those at which two runs differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...data.errors import UserError
from ..model import anatomy

if TYPE_CHECKING:
    from .recording import Recording


@dataclass(frozen=True, eq=False)
class Positions:
    """Some positions of every example, padded to one number of rows s: index Int[b, s], real Bool[b, s].

    last: which of the s rows is the last position, Int[b]. chosen: the same positions as Bool[b, p].
    """

    index: Int[Tensor, "b s"]
    real: Bool[Tensor, "b s"]
    last: Int[Tensor, " b"]
    chosen: Bool[Tensor, "b p"]

    def take(self, tensor: Tensor) -> Tensor:
        """[b or 1, p, ...] -> [b, s, ...]; [b or 1, 1, ...], the same at every position, -> [b, 1, ...].

        UserError: a tensor over another number of positions.
        """
        tensor = tensor.expand(len(self.index), *tensor.shape[1:])
        if tensor.shape[1] == 1:
            return tensor
        if tensor.shape[1] != self.chosen.shape[1]:
            raise UserError(
                f"an intervention has values at {tensor.shape[1]} positions, but the forward reads "
                f"{self.chosen.shape[1]}: give those, or one value for all"
            )
        index = self.index.to(tensor.device)
        return tensor[torch.arange(len(index), device=tensor.device)[:, None], index]

    def take_each(self, stacked: Tensor) -> Tensor:
        """[v, b, p, ...] of several variants -> [v, b, s, ...]."""
        index = self.index.to(stacked.device)
        return stacked[:, torch.arange(len(index), device=stacked.device)[:, None], index]

    def put_each(self, rows: Tensor, stacked: Tensor) -> Tensor:
        """The rows [v, b, s, ...] in their places of `stacked` [v, b, p, ...], which is changed and given back."""
        places, rows_of_them = (tuple(at.to(stacked.device) for at in some) for some in self._places)
        stacked[:, *places] = rows[:, *rows_of_them]
        return stacked

    def rows_of(self, places: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Which of the s rows chosen positions are."""
        before = torch.arange(self.chosen.shape[1], device=places.device) < places[..., None]
        return (self.chosen.to(places.device)[:, None] & before).sum(-1)

    @cached_property
    def _places(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Example and position of each, and example and row: told once, since a GPU has to be waited for."""
        return self.chosen.nonzero(as_tuple=True), self.real.nonzero(as_tuple=True)


def positions_of(chosen: Bool[Tensor, "b p"], last: Int[Tensor, " b"]) -> Positions:
    """Chosen positions in order; shorter rows repeat the last position, whose copies nobody reads."""
    count = chosen.sum(1)
    order = torch.argsort((~chosen).int(), dim=1, stable=True)[:, : int(count.max())]
    real = torch.arange(order.shape[1], device=order.device) < count[:, None]
    before = torch.arange(chosen.shape[1], device=order.device) < last[:, None]
    return Positions(torch.where(real, order, last[:, None]), real, (chosen & before).sum(1), chosen)


def affected_positions(recording: Recording, changed: Bool[Tensor, "b p"]) -> Positions:
    """The positions that a change at `changed` reaches and that the last position can see.

    A fixpoint over the union of the layers' masks: for causal ones the suffix from the first change on; a
    bidirectional image block moves it back.
    """
    device = recording.mask.device
    touched = closure(changed.to(device), recording.sees)
    chosen = (touched & recording.useful & recording.mask) | recording.final
    if anatomy.counts_from_cache(recording.subject.layers):
        chosen[:, int(chosen.any(0).int().argmax()) :] = True  # these layers count the positions before the rows
    return positions_of(chosen, recording.last.to(device))


def diverging_positions(base: Recording, donor: Recording) -> Positions:
    """The positions at which two runs of one layout differ, in any layer, and what they reach."""
    pairs = zip(base.layers, donor.layers, strict=True)
    differ = [(ours.resid_pre != theirs.resid_pre).any(-1).to(base.mask.device) for ours, theirs in pairs]
    return affected_positions(base, torch.stack(differ).any(0))


def closure(chosen: Bool[Tensor, "b p"], sees: Bool[Tensor, "b p p"]) -> Bool[Tensor, "b p"]:
    """All positions that see a chosen one, directly or through others."""
    while True:
        grown = chosen | (sees & chosen[:, None]).any(-1)
        if torch.equal(grown, chosen):
            return chosen
        chosen = grown


def at_last(tensor: Tensor, last: Int[Tensor, " b"]) -> Tensor:
    """[b, p, ...] -> [b, ...] at each example's last real position."""
    return tensor[torch.arange(len(tensor), device=tensor.device), last.to(tensor.device)]
