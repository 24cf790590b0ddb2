"""Passes of their own: the vision tower's states, and those of a twin with random weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import SubjectError
from ...probes.model.random_weights import random_twin
from ...probes.model.stack import VISION, Stack
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import stack_layers
from ..common.squares import square
from ._patches import at_patches, patches

Kept = dict[str, Tensor]


def tower_of(subject: Any) -> Stack | None:
    """The vision tower, None without one that can be read."""
    try:
        return subject.vision
    except SubjectError:
        return None


def tower_states(subject: Any, batch: Batch, count: int) -> Kept:
    """ "tower" [b, states, d], mean over the patches of an example's picture; "tower|patch" [b, states, count, d], the
    patches of `_patches.patches`; "tower|whole" [b, patches, d] of the last state. Nothing without a tower whose rows
    are pictures, one for each example that has any, on a square grid.
    """
    kept = _Tower(batch, count)
    if tower_of(subject) is not None and kept.rows:
        with tracing(subject, kept, stack=VISION):
            subject.forward(batch)
    return kept.found()


def random_states(subject: Any, batch: Batch, count: int, of_layer: Callable[[Layer], Any], tower: bool) -> Kept:
    """What `of_layer` gives of every layer of a twin with random weights, and its `tower_states`, of one pass."""
    twin, layers, kept = random_twin(subject), [], _Tower(batch, count)
    with ExitStack() as blocks:
        blocks.enter_context(tracing(twin, lambda layer: layers.append(of_layer(layer))))
        if tower and tower_of(twin) is not None and kept.rows:
            blocks.enter_context(tracing(twin, kept, stack=VISION))
        twin.forward(batch)
    return stack_layers(layers) | {name: value for name, value in kept.found().items() if name != "tower|whole"}


def in_half(states: Tensor) -> Tensor:
    """Within the largest number that half precision holds."""
    return states.clamp(-65504, 65504).half()


class _Tower:
    """Keeps a tower's states, block by block."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.patches = batch, patches(batch, count)
        counts = [len(example.images) for example in batch.examples]
        self.rows = [i for i, n in enumerate(counts) if n] if max(counts) == 1 else []
        self.layers: list[Kept] = []

    def __call__(self, layer: Layer) -> None:
        n, grid = len(layer.resid_pre), square(layer.resid_pre.shape[1])
        if n != len(self.rows) or grid is None:
            return
        self.layers.append(self._of_state(layer.resid_pre, *grid))
        if layer.index == layer.stack.n_layers - 1:
            self.layers.append(self._of_state(layer.resid_post, *grid))
            self.whole = self._spread(in_half(layer.resid_post[:, int(grid[1]) :]))

    def found(self) -> Kept:
        return {} if not self.layers else stack_layers(self.layers) | {"tower|whole": self.whole.cpu()}

    def _of_state(self, state: Float[Tensor, "row n d"], side: int, has_class: bool) -> Kept:
        own = state[:, int(has_class) :]
        found = {"tower": self._spread(own.float().mean(1).to(own.dtype))}
        if bool((self.patches.positions >= 0).any()):
            found["tower|patch"] = self._spread(at_patches(own, self._places(side)))
        return found

    def _places(self, side: int) -> Int[Tensor, "row patch"]:
        """The tower's patch in the middle of each patch of the decoder's, whose map may be coarser."""
        size = self.patches.size[self.rows].clamp_min(1)[:, None]
        row, column = ((self.patches.cell[self.rows].nan_to_num() + 0.5) / size * side).long().unbind(-1)
        return (row * side + column).where(self.patches.positions[self.rows] >= 0, -1)

    def _spread(self, values: Float[Tensor, "row *rest"]) -> Float[Tensor, "b *rest"]:
        whole = values.new_full((len(self.batch.examples), *values.shape[1:]), torch.nan)
        whole[self.rows] = values
        return whole
