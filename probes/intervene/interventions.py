"""Interventions: what can be done to a layer while it computes, in one forward, in generation, or swept by replay.

An intervention is a small frozen dataclass of one site. To add one, write `apply` (what becomes of the site's tensor),
`identity` (itself with a setting that changes nothing) and `describe`; nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from .attention_edits import CALL, AttentionEdit, EditAttention, TurnByBase, WeighKeys
from .placing import at_positions, members, one_line, require_place, spread
from .positions import Positions

if TYPE_CHECKING:
    from .recording import LayerRecord, Recording

__all__ = [
    "CALL",
    "EDGES",
    "QKV",
    "Add",
    "Apply",
    "Change",
    "Clamp",
    "EditAttention",
    "Intervention",
    "Knockout",
    "Patch",
    "PatchQKV",
    "ProjectOut",
    "Scale",
    "TurnByBase",
    "Variant",
    "WeighKeys",
    "with_positions",
]
Heads = tuple[int, ...] | None  # of z; None: all
# What the attention reads with, one for each query head, by part; changed by `PatchQKV` alone.
QKV = {"q": "rot_q", "k": "rot_k", "v": "v"}
# Which columns a row may read: changed by `Knockout` alone.
EDGES = "edges"


class Intervention(Protocol):
    """What every intervention has. A sweep over positions or heads makes it again with other `positions` and `heads`.

    site: of `probes/sites.py`. positions: where it acts, None for everywhere; `heads` of z, where it has them, alike.
    """

    @property
    def site(self) -> str: ...

    @property
    def positions(self) -> Bool[Tensor, "b p"] | None: ...

    def apply(self, tensor: Float[Tensor, "b s ..."], where: Positions) -> Float[Tensor, "b s ..."]:
        """The site's tensor as it should be instead; `where.take` brings what lies over all positions to its rows.

        The rows are some of the positions, so it must not depend on how many there are, nor mix them.
        """
        ...

    def identity(self, base: Recording, layer: int) -> Intervention:
        """The same machinery, set so that it changes nothing of this recorded layer."""
        ...

    def describe(self) -> str:
        """What it does, in a few words for errors and records."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Patch:
    """`values` in place of what is there: a tensor that broadcasts to the site's [b, p, ...]."""

    site: str
    positions: Bool[Tensor, "b p"] | None
    values: Tensor
    heads: Heads = None

    def __post_init__(self) -> None:
        require_place(self.site, self.heads, "patch")

    def apply(self, tensor: Tensor, where: Positions) -> Tensor:
        return at_positions(self, tensor, spread(self.values, tensor, where, self.describe()), where)

    def identity(self, base: Recording, layer: int) -> Patch:
        return replace(self, values=base.layers[layer].site(self.site))

    def describe(self) -> str:
        return f"patching {self.site}"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class Scale:
    """The site times `factor`: a number (0 ablates), or a tensor that broadcasts to the site."""

    site: str
    positions: Bool[Tensor, "b p"] | None
    factor: float | Tensor
    heads: Heads = None

    def __post_init__(self) -> None:
        require_place(self.site, self.heads, "scale")

    def apply(self, tensor: Tensor, where: Positions) -> Tensor:
        return at_positions(self, tensor, tensor * spread(self.factor, tensor, where, self.describe()), where)

    def identity(self, base: Recording, layer: int) -> Scale:
        return replace(self, factor=1.0)

    def describe(self) -> str:
        return f"scaling {self.site}"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class Add:
    """`direction` added (steering): [d], or anything else that broadcasts to the site."""

    site: str
    positions: Bool[Tensor, "b p"] | None
    direction: Tensor
    heads: Heads = None

    def __post_init__(self) -> None:
        require_place(self.site, self.heads, "add to")

    def apply(self, tensor: Tensor, where: Positions) -> Tensor:
        return at_positions(self, tensor, tensor + spread(self.direction, tensor, where, self.describe()), where)

    def identity(self, base: Recording, layer: int) -> Add:
        return replace(self, direction=torch.zeros_like(self.direction))

    def describe(self) -> str:
        return f"adding a direction to {self.site}"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class ProjectOut:
    """x − (x·d̂) d̂: the part along `direction` taken away (directional ablation, arXiv 2406.11717); [d], or as it
    broadcasts to the site."""

    site: str
    positions: Bool[Tensor, "b p"] | None
    direction: Tensor
    heads: Heads = None

    def __post_init__(self) -> None:
        require_place(self.site, self.heads, "project out of")

    def apply(self, tensor: Tensor, where: Positions) -> Tensor:
        direction = self.direction.to(torch.promote_types(self.direction.dtype, torch.float32))
        length = direction.norm(dim=-1, keepdim=True)
        unit = spread(direction / length.where(length > 0, 1.0), tensor, where, self.describe())
        along = (tensor * unit).sum(-1, keepdim=True)
        return at_positions(self, tensor, tensor - along * unit, where)

    def identity(self, base: Recording, layer: int) -> ProjectOut:
        return replace(self, direction=torch.zeros_like(self.direction))

    def describe(self) -> str:
        return f"projecting a direction out of {self.site}"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class Clamp:
    """The site, or `units` of its last axis alone, held between `low` and `high`; both the same: set to that value."""

    site: str
    positions: Bool[Tensor, "b p"] | None
    low: float = -torch.inf
    high: float = torch.inf
    units: tuple[int, ...] | None = None
    heads: Heads = None

    def __post_init__(self) -> None:
        require_place(self.site, self.heads, "clamp")
        if not self.low <= self.high:
            raise UserError(f"cannot clamp {self.site} between {self.low} and {self.high}: low ≤ high is needed")

    def apply(self, tensor: Tensor, where: Positions) -> Tensor:
        clamped = tensor.clamp(self.low, self.high)
        if self.units is not None:
            clamped = torch.where(members(self.units, tensor.shape[-1], "unit", tensor), clamped, tensor)
        return at_positions(self, tensor, clamped, where)

    def identity(self, base: Recording, layer: int) -> Clamp:
        return replace(self, low=-torch.inf, high=torch.inf)

    def describe(self) -> str:
        return f"clamping {self.site}"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class Apply:
    """`function` of the site's tensor [b, s, ...], position by position: a dictionary's reconstruction, say."""

    site: str
    positions: Bool[Tensor, "b p"] | None
    function: Callable[[Tensor], Tensor]
    heads: Heads = None

    def __post_init__(self) -> None:
        require_place(self.site, self.heads, "apply a function to")

    def apply(self, tensor: Tensor, where: Positions) -> Tensor:
        changed = self.function(tensor)
        if changed.shape != tensor.shape:
            raise UserError(f"{self.describe()}: it made {list(changed.shape)} of {list(tensor.shape)}")
        return at_positions(self, tensor, changed.to(tensor), where)

    def identity(self, base: Recording, layer: int) -> Apply:
        return replace(self, function=torch.clone)

    def describe(self) -> str:
        return f"applying a function to {self.site}"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class PatchQKV:
    """A head's query, key or value (part "q", "k", "v"; rotated, as the attention reads them) is `values`.

    values: [b, p, d_head]; or [b, s, d_head], those of the rows `at`. Of a head alone, also where heads share keys and
    values: the tensor that it acts on has one for each query head.
    """

    part: str
    head: int
    positions: Bool[Tensor, "b p"] | None
    values: Tensor
    at: Positions | None = None

    def __post_init__(self) -> None:
        if self.part not in QKV:
            raise UserError(f"a head reads with no {self.part!r}: 'q', 'k' or 'v'")

    @property
    def site(self) -> str:
        return QKV[self.part]

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.head,)

    def apply(self, tensor: Float[Tensor, "b s h e"], where: Positions) -> Float[Tensor, "b s h e"]:
        return at_positions(self, tensor, where.take(self._everywhere(tensor))[:, :, None], where)

    def _everywhere(self, tensor: Tensor) -> Float[Tensor, "b p e"]:
        values = self.values.to(tensor)
        if self.at is None:
            return values
        index = self.at.index.to(tensor.device)[..., None].expand(*self.at.index.shape, tensor.shape[-1])
        return tensor.new_zeros(*self.at.chosen.shape, tensor.shape[-1]).scatter(1, index, values)

    def identity(self, base: Recording, layer: int) -> PatchQKV:
        return replace(self, positions=torch.zeros_like(base.mask))

    def describe(self) -> str:
        return f"patching the {self.part} of head {self.head}"

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class Knockout:
    """Attention from `target` rows to `source` columns (Bool[b, p] each) is removed before the softmax.

    donor: the same layer of another forward, whose keys and values those rows read there instead.
    It has no `apply`: its tensor would be every variant's pattern, which is never held, and a donor's keys and values
    stand beside the layer's own. So the attention itself takes its edges: `replay_attention`, or a forward's mask.
    """

    target: Bool[Tensor, "b p"]
    source: Bool[Tensor, "b p"]
    donor: LayerRecord | None = None

    @property
    def site(self) -> str:
        return EDGES

    @property
    def positions(self) -> Bool[Tensor, "b p"]:
        return self.target

    def acting_rows(self, layer: LayerRecord) -> Bool[Tensor, "b p"]:
        """The rows that lose an edge which they have in this layer, and are not lent the same by the donor."""
        if not layer.attends:
            return torch.zeros_like(self.target)
        target, source = (mask.to(layer.allowed.device) for mask in (self.target, self.source))
        cut = (layer.allowed & (target[:, :, None] & source[:, None])[:, None]).any(1)
        if self.donor is not None:
            cut = cut & ~(_near(layer.key, self.donor.key) & _near(layer.value, self.donor.value))[:, None]
        return cut.any(-1)

    def identity(self, base: Recording, layer: int) -> Knockout:
        if self.donor is not None:
            return replace(self, donor=base.layers[layer])
        return replace(self, source=torch.zeros_like(self.source))

    def describe(self) -> str:
        return "attention knockout" if self.donor is None else "resampled attention"

    __repr__ = one_line


Change = Intervention | Knockout | AttentionEdit
Variant = Mapping[int, Sequence[Change]]  # by layer


def _near(own: Float[Tensor, "b kv p e"], other: Float[Tensor, "b kv p e"]) -> Bool[Tensor, "b p"]:
    """At which columns two forwards' keys, or values, are the same."""
    return torch.isclose(own, other, atol=1e-5).all(-1).all(1)


def with_positions(change: Any, positions: Bool[Tensor, "b p"] | None) -> Any:
    """The same intervention at other positions."""
    return replace(change, **{"target" if change.site == EDGES else "positions": positions})
