"""Edits of a layer's attention itself: how its rows weigh keys, by which rotary base it turns, or any function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ...data.errors import UserError
from .placing import members, one_line
from .positions import Positions

if TYPE_CHECKING:
    from ..model.attention import AttentionCall
    from .recording import LayerRecord, Recording

# A layer's attention as it is called: changed by what stands in this file alone.
CALL = "attention"


@dataclass(frozen=True, eq=False, repr=False)
class EditAttention:
    """A layer's attention computes what `function` makes of its call, as edits of `tracing` do.

    function: (call, rows) -> the call that is computed. The call's queries are those of the rows (`Positions`) that are
    computed, its keys, values and columns those of all positions. It may choose by what the call reads, so what it does
    may depend on the layers below; rows outside of `positions` it leaves as they are.
    every_row: whether it looks at all rows (column means): then all are computed, whoever reads them.
    It has no `apply`, since no site's tensor says all that an attention reads.
    """

    positions: Bool[Tensor, "b p"] | None
    function: Callable[[AttentionCall, Positions], AttentionCall]
    every_row: bool = False

    @property
    def site(self) -> str:
        return CALL

    def continued(self, call: AttentionCall, total: int, generated: bool) -> AttentionCall:
        """Tokens behind the prompt are left as they are."""
        return call

    def acting_rows(self, layer: LayerRecord) -> Bool[Tensor, "b p"] | None:
        """Where it acts at all; None for everywhere: what it does shows only while it runs."""
        return self.positions

    def identity(self, base: Recording, layer: int) -> EditAttention:
        return replace(self, function=lambda call, rows: call)

    def describe(self) -> str:
        return "editing the attention"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class WeighKeys:
    """Rows weigh their keys: scores + ln weights, which is attention × weight with every row divided by its sum again.

    weights: Float[b, p] of each position as a key, above 0 (what is not to be read at all is a `Knockout`); generated
    keys have weight 1. positions: the rows, None for all; heads: None for all. Exact, and without a pattern where the
    layer's attention needs none. Several in one layer multiply, in any order.
    PASTA (arXiv 2311.02262), amplified gaze (GIFT) and "look at the image" are this with other weights.
    """

    positions: Bool[Tensor, "b p"] | None
    weights: Float[Tensor, "b p"]
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not bool((self.weights > 0).all()) or not bool(self.weights.isfinite().all()):
            least = float(self.weights.min())
            raise UserError(f"weights of keys are numbers above 0, not {least:g}: keys nobody may read are a Knockout")

    @property
    def site(self) -> str:
        return CALL

    def function(self, call: AttentionCall, rows: Positions) -> AttentionCall:
        """The call over a prompt, of which `rows` are computed. UserError: other columns than the prompt's."""
        asked = None if self.positions is None else rows.take(self.positions.to(call.query.device))
        return self.over(call, self.weights, asked)

    def continued(self, call: AttentionCall, total: int, generated: bool) -> AttentionCall:
        """The call of tokens behind the prompt, whose keys are the last of `total`: where asked, every row."""
        if not generated:
            return call
        weights = pad(self.weights, (0, total - self.weights.shape[1]), value=1.0)
        return self.over(call, weights[:, -call.key.shape[2] :], None)

    def over(
        self, call: AttentionCall, weights: Float[Tensor, "b k"], rows: Bool[Tensor, "b s"] | None
    ) -> AttentionCall:
        """The call whose columns have these weights for these of its rows, None for all."""
        if weights.shape[1] != call.key.shape[2]:
            raise UserError(
                f"weights of {weights.shape[1]} keys, but the layer reads {call.key.shape[2]}: give those of the batch "
                "that is run, without resampled keys beside its own"
            )
        log = weights.to(call.query.device, torch.float32).log()[:, None, None]
        if self.heads is not None:
            chosen = members(self.heads, call.query.shape[1], "head", log)
            log = torch.where(chosen[:, None, None], log, 0.0)
        if rows is not None:
            log = torch.where(rows.to(log.device)[:, None, :, None], log, 0.0)
        log = log.to(call.query.dtype)
        return call.edited(bias=log if call.bias is None else call.bias + log)

    def acting_rows(self, layer: LayerRecord) -> Bool[Tensor, "b p"]:
        """The rows that may read a key whose weight is not 1."""
        if not layer.attends:
            return torch.zeros_like(self.weights, dtype=torch.bool)
        other = (self.weights != 1).to(layer.allowed.device)
        read = (layer.allowed & other[:, None, None]).flatten(1, 1).any(1).any(-1)
        return read if self.positions is None else read & self.positions.to(read.device)

    def identity(self, base: Recording, layer: int) -> WeighKeys:
        return replace(self, weights=torch.ones_like(self.weights))

    def describe(self) -> str:
        return "weighing keys"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class TurnByBase:
    """Queries and keys turned on from the model's rotary frequencies to those of another base (Attention Buckets).

    turn: Float[b or 1, pair], new − old frequency of each pair (i, i + pairs); places: Int[b, p], the positions that
    the model counts. Generated tokens count on. Made by `intervene.rope.turned_by`, which knows the model's own.
    """

    turn: Float[Tensor, "b pair"]
    places: Int[Tensor, "b p"]
    positions: None = None

    @property
    def site(self) -> str:
        return CALL

    def function(self, call: AttentionCall, rows: Positions) -> AttentionCall:
        """The call over a prompt, of which `rows` are computed."""
        places = self.places.to(call.query.device)
        return self.over(call, places, rows.take(places))

    def continued(self, call: AttentionCall, total: int, generated: bool) -> AttentionCall:
        """The call of tokens behind the prompt: the places count on, and the prompt's keys are turned as they were."""
        behind = torch.arange(1, total - self.places.shape[1] + 1, device=self.places.device)
        places = torch.cat([self.places, self.places[:, -1:] + behind], 1).to(call.query.device)
        return self.over(call, places[:, -call.key.shape[2] :], places[:, -call.query.shape[2] :])

    def over(self, call: AttentionCall, keys: Int[Tensor, "b k"], queries: Int[Tensor, "b s"]) -> AttentionCall:
        """The call whose columns and rows stand at these places."""
        return call.edited(query=self._turned(call.query, queries), key=self._turned(call.key, keys))

    def _turned(self, x: Float[Tensor, "b h n d"], places: Int[Tensor, "b n"]) -> Float[Tensor, "b h n d"]:
        turn = self.turn.to(x.device, torch.float32)
        angle = (places[..., None] * turn[:, None])[:, None]  # [b, 1, n, pair]
        cos, sin = angle.cos(), angle.sin()
        width = turn.shape[1]
        a, b, rest = x.float().split([width, width, x.shape[-1] - 2 * width], -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).to(x.dtype)

    def acting_rows(self, layer: LayerRecord) -> Bool[Tensor, "b p"]:
        """All rows but the first token's, which stands at place 0."""
        moved = (self.places > 0) & bool(self.turn.any())
        return moved if layer.attends else torch.zeros_like(moved)

    def identity(self, base: Recording, layer: int) -> TurnByBase:
        return replace(self, turn=torch.zeros_like(self.turn))

    def describe(self) -> str:
        return "turning by another rotary base"

    __repr__ = one_line


AttentionEdit = EditAttention | WeighKeys | TurnByBase
