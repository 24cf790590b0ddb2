"""The same prompts with something changed: a batch of those that it can be made of, and their rows in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...data.example import Example
from ...probes.prompts.batch import Batch

Change = Callable[[Example], Example | None]  # None: it cannot be made of this example


class Changed(NamedTuple):
    """batch: the changed examples, in the form of the `count` that they come from. chosen: which of these they are."""

    batch: Batch
    chosen: list[int]
    count: int

    def spread(self, rows: Tensor) -> Tensor:
        """[count, …]: the rows of the changed examples at their places, NaN where no change is made."""
        whole = rows.new_full((self.count, *rows.shape[1:]), torch.nan)
        whole[self.chosen] = rows
        return whole


def changed(subject: Any, batch: Batch, change: Change) -> Changed | None:
    """The batch of what `change` makes of the examples; None where it makes nothing of any."""
    made = {i: new for i, example in enumerate(batch.examples) if (new := change(example)) is not None}
    if not made:
        return None
    return Changed(subject.batch([*made.values()], **batch.form), [*made], len(batch.examples))
