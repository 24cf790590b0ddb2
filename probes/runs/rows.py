"""Rows of every analysis from one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .results import How, observe
from .sums import summed

if TYPE_CHECKING:
    from ..model.subject import Subject


def compute_rows(subject: Subject, batch: Any, riding: Mapping[str, tuple[Any, How]]) -> dict[str, dict[str, Tensor]]:
    """Name -> rows of each (module, options and what was learned) from one batch, summed where it sums them.

    Those that observe ride one forward.
    """
    observing = {name: pair for name, pair in riding.items() if hasattr(pair[0], "observe")}
    rows = observe(subject, batch, observing) if observing else {}
    for name, (module, how) in riding.items():
        if name not in observing:
            rows[name] = module.measure(subject, batch, {}, how)
    return {name: summed(rows[name], getattr(module, "SUMS", ())) for name, (module, _) in riding.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch, since the bits of a forward depend on them; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
