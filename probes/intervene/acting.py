"""Where interventions have something to do, told from a recording before anything is run."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from .interventions import EDGES, Intervention, Knockout
from .recording import Recording


def acting_positions(base: Recording, layer: int, change: Intervention | Knockout) -> Bool[Tensor, "b p"]:
    """The real positions at which a change makes something else of a recorded layer: other values, or edges removed.

    Of a site that was not recorded: those where it acts at all.
    """
    record, rows = base.layers[layer], change.positions
    own: Any = change
    if change.site == EDGES:
        rows = own.cut_rows(record)
    elif record.holds(change.site):
        tensor = record.site(change.site)
        rows = (own.apply(tensor, base.everywhere) != tensor).flatten(2).any(2)
    return base.mask.clone() if rows is None else rows.to(base.mask.device) & base.mask
