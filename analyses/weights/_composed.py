"""Composition of all pairs of heads: what a later head reads of what an earlier one writes, whole and by component."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import metrics
from ..common.head_weights import Factors

KINDS = ("Q", "K", "V")
READ = ("whole", "part", "place", "share")
AT_ONCE = 96  # receivers


class Circuits(NamedTuple):
    """The OV and the QK circuit of one layer's heads; None where a family has none that weights alone give."""

    layer: int
    ov: Factors | None
    qk: Factors | None


def composed(circuits: list[Circuits], n_layers: int) -> dict[str, Tensor]:
    """For each of KINDS [layer, h, layer, h], sender then receiver, NaN where it does not come before: "whole", the
    score of the sender as it is; "part", the largest of its singular components; "place", which one it is; "share",
    its share of the sender's squared norm.
    """
    heads = max((len(part[0]) for one in circuits for part in (one.ov, one.qk) if part is not None), default=0)
    found: dict[str, Tensor] = {}
    for kind in KINDS if any(one.ov is not None for one in circuits) else ():
        receivers = _Receivers.of(circuits, kind)
        if receivers is None:
            continue
        found |= {f"{kind}|{name}": torch.full((n_layers, heads, n_layers, heads), torch.nan) for name in READ}
        for sender in circuits:
            if sender.ov is not None:
                for later in receivers.behind(sender.layer):
                    _fill(found, kind, sender, later)
    return found


class _Receivers(NamedTuple):
    """What heads read, as factors whose second is the identity: `compositions` is spared its decomposition."""

    read: Float[Tensor, "t d m"]
    layer: Int[Tensor, "t"]
    head: Int[Tensor, "t"]

    @classmethod
    def of(cls, circuits: list[Circuits], kind: str) -> _Receivers | None:
        parts = [(one.layer, factors) for one in circuits if (factors := _reads(one, kind)) is not None]
        if not parts:
            return None
        read = torch.cat([first @ torch.linalg.qr(second.mT).R.mT for _, (first, second) in parts])
        counts = torch.tensor([len(factors[0]) for _, factors in parts])
        layers = torch.tensor([layer for layer, _ in parts]).repeat_interleave(counts)
        return cls(read, layers, torch.cat([torch.arange(int(count)) for count in counts]))

    def behind(self, layer: int) -> Iterator[_Receivers]:
        """Those of later layers, some at once."""
        later = (self.layer > layer).nonzero()[:, 0]
        for some in later.split(AT_ONCE) if len(later) else ():
            yield _Receivers(self.read[some.to(self.read.device)], self.layer[some], self.head[some])


def _reads(one: Circuits, kind: str) -> Factors | None:
    """What a kind of composition is read by."""
    if kind == "V" or one.qk is None:
        return one.ov if kind == "V" else None
    queries, keys = one.qk
    return (queries, keys) if kind == "Q" else (keys.mT, queries.mT)


def _fill(found: dict[str, Tensor], kind: str, sender: Circuits, later: _Receivers) -> None:
    assert sender.ov is not None
    eye = torch.eye(later.read.shape[2], device=later.read.device).expand(len(later.read), -1, -1)
    scores = metrics.compositions(sender.ov, (later.read, eye))
    part, place = scores.components.max(-1)
    shares = scores.singular.square() / scores.singular.square().sum(-1, keepdim=True)
    values = (scores.whole, part, place.float(), shares.gather(1, place))
    for name, value in zip(READ, values, strict=True):
        found[f"{kind}|{name}"][sender.layer, : len(value), later.layer, later.head] = value.cpu()
