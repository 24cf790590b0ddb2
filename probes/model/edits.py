"""The open edits of a model: one stack, kept by model, seen by every thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .attention import Edit

Rewrite = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Block:
    """One open block of `tracing`, on the layers of one stack ("decoder" or "vision")."""

    stack: str
    on_layer: Callable[[Any], Any] | None
    edits: Mapping[int, Edit]
    rewrites: Mapping[tuple[int, str], Rewrite]

    @property
    def changes(self) -> bool:
        """Whether it can change a number; pure observers cannot."""
        return bool(self.edits or self.rewrites)

    @property
    def hooked(self) -> bool:
        """Whether it takes more than the attention function."""
        return self.on_layer is not None or any(site != "attn_z" for _, site in self.rewrites)


OPEN: dict[nn.Module, tuple[Block, ...]] = {}  # written by `tracing` alone


def active_edits(model: nn.Module) -> tuple[Block, ...]:
    """The open blocks that can change a number of this model, outermost first."""
    return tuple(block for block in OPEN.get(model, ()) if block.changes)
