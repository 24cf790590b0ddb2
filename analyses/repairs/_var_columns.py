"""Which columns give attention, and which take it, in every layer of a prompt; see `var`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from ...data.errors import UserError
from .. import metrics
from ..common.controls import layer_keys, random_positions
from ..metrics.redistribution import TAKERS


@dataclass(frozen=True, eq=False)
class Redistributed:
    """What was found in the last prompt, by layer. sinks: Bool[b, n]. visual: Bool[b], whether a sink lies in the
    image. givers: Bool[b, n], the columns that give: the sinks, or the random ones of the control.
    """

    sinks: dict[int, Bool[Tensor, "b n"]] = field(default_factory=dict)
    visual: dict[int, Bool[Tensor, " b"]] = field(default_factory=dict)
    givers: dict[int, Bool[Tensor, "b n"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Columns:
    """Which columns give, and which take, in every layer of the last prompt; see `var`."""

    found: Redistributed
    columns: str
    to: str
    without_visual_sinks: str
    seed: int | Sequence[str]
    made: dict[int, metrics.SinkColumns] = field(default_factory=dict)

    def __post_init__(self) -> None:
        words = {"columns": ("sinks", "random"), "to": TAKERS, "without_visual_sinks": ("leave", "move")}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} = {getattr(self, name)!r} is none of {', '.join(known)}")

    def find(self, index: int, massive: Tensor, image: Tensor, real: Tensor) -> None:
        """massive: Bool[b, n], the positions with φ ≥ τ."""
        image, real = image.to(massive.device), real.to(massive.device)
        sinks = givers = massive & real
        if self.columns == "random":
            givers = random_positions(sinks, real, layer_keys(self.seed, len(sinks), index))
        self.found.sinks[index], self.found.visual[index] = sinks, (sinks & image).any(1)
        self.found.givers[index] = givers
        self.made[index] = metrics.sink_columns(
            image, sinks, givers, to=self.to, without_visual_sinks=self.without_visual_sinks
        )
