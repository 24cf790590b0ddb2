"""What the heads that carry a task look at, beside other heads of their layers and beside uniform attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.controls import HEADS, UNIFORM
from ..common.frames import joined, summarise
from ..common.selection import at, at_random, halves

Array = NDArray[np.floating]


def looked(rows: Rows, how: How, exact: str, on: str, alike: str) -> pd.DataFrame | None:
    """Attention of the last position on each mark, mean over the heads of largest |effect| of one half of the groups,
    measured on the other. exact: rows of effects [n, layer, head]; on, alike: prefixes of the rows of attention on a
    mark [n, layer, head] and of what uniform attention gives it [n]. None without marks, or with one group.
    """
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    marks = [name.removeprefix(alike) for name in rows.values if name.startswith(alike)]
    if not marks or not chosen.any():
        return None
    heads = metrics.top_heads(torch.tensor(rows[exact][chosen].mean(0)), how.options.share)
    scored = rows.where(other)
    return joined(
        summarise(values, scored.examples["group"], {}, "attention", control=control, measure=mark.replace("_", " "))
        for mark in marks
        for control, values in _of_mark(scored, heads, on + mark, alike + mark)
    )


def _of_mark(rows: Rows, heads: list[tuple[int, int]], on: str, alike: str) -> Iterator[tuple[str, Array]]:
    yield "", at(rows[on], heads).mean(1)
    yield HEADS, at_random(rows[on], heads).mean(1)
    yield UNIFORM, rows[alike]
