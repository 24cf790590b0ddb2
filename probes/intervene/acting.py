"""Where interventions have something to do, told from a recording before anything is run."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from .interventions import CALL, EDGES, Change
from .recording import Recording


def acting_positions(base: Recording, layer: int, change: Change) -> Bool[Tensor, "b p"]:
    """The real positions at which a change makes something else of a recorded layer: other values, edges, weights.

    Of a site that was not recorded, and of an edit of the attention: those where it acts at all.
    """
    record, rows = base.layers[layer], change.positions
    own: Any = change
    if change.site == CALL and rows is not None and not bool(rows.any()):  # it only reads
        return torch.zeros_like(base.mask)
    if change.site in (CALL, EDGES):
        rows = own.acting_rows(record)
    elif record.holds(change.site):
        tensor = record.site(change.site)
        rows = (own.apply(tensor, base.everywhere) != tensor).flatten(2).any(2)
    return base.mask.clone() if rows is None else rows.to(base.mask.device) & base.mask
