"""The gradient of a measure at what every reader of the residual stream reads, one layer's graph alive at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..model import anatomy
from ..model.attention import AttentionCall, replaying
from ..observe.tracing import first, rewrite_output
from . import replay_attention
from .attribution import between, measured_sum
from .layer_parts import arguments_at, arguments_of_all
from .measures import Measure
from .positions import Positions
from .recording import Recording


class Reader(NamedTuple):
    """What reads the residual stream: kind "q", "k", "v" (of a query or KV head), "mixer", "mlp", "final" (layer L)."""

    kind: str
    layer: int
    head: int


# The readers that are asked for, by their layer.
ByLayer = Mapping[int, Sequence[Reader]]
Slopes = Iterator[tuple[int, Iterator[Float[Tensor, "b s d"]]]]


class Start(NamedTuple):
    """Where a replay begins: the state that enters `layer` at the rows, and what is added there to what its heads or
    MLP write (site "attn_out" or "mlp_out", in that site's units).
    """

    layer: int
    state: Float[Tensor, "b s d"]
    site: str = ""
    push: Tensor | None = None


def slopes_at_rows(
    base: Recording, donor: Recording, where: Positions, measure: Measure, share: float, readers: ByLayer
) -> Slopes:
    """(layer, the gradient at each of its readers), last layer first, from layers replayed at the rows."""
    return slopes_from(base, where, measure, Start(0, where.take(between(base, donor, share)).detach()), readers)


def slopes_from(base: Recording, where: Positions, measure: Measure, start: Start, readers: ByLayer) -> Slopes:
    """The same from any start; readers: of its layer and later ones.

    No graph is longer than a layer: each runs again with its own, from the state that entered it.
    """
    states, visible = _states(base, where, start, min(readers)), {}
    end = len(base.layers)
    slope = _slope_at_end(base, where, states[end], measure)
    if end in readers:
        yield end, iter([slope.float()])
    for i in range(end - 1, min(readers) - 1, -1):
        ran = _Ran(base, where, i, states.pop(i), slope, visible, start if i == start.layer else None)
        if i in readers:
            yield i, map(ran.slope, readers[i])
        slope = ran.entering_slope


@torch.no_grad()
def _states(base: Recording, where: Positions, start: Start, lowest: int) -> dict[int, Tensor]:
    """What enters every layer from `lowest` on at the rows, and what leaves the last one."""
    state, visible, states = start.state, {}, {}
    for i, record in enumerate(base.layers[start.layer :], start.layer):
        state = state.to(record.resid_pre.device)
        state = state if record.added is None or i == start.layer else state + where.take(record.added)
        states |= {i: state} if i >= lowest else {}
        state, _ = _through(base, where, i, state, visible, start if i == start.layer else None)
    return states | {len(base.layers): state}


@torch.enable_grad()
def _slope_at_end(base: Recording, where: Positions, state: Tensor, measure: Measure) -> Tensor:
    state = state.detach().requires_grad_()
    last = state[torch.arange(len(state)), where.last.to(state.device)]
    return torch.autograd.grad(measured_sum(base, last, measure), state)[0]


class _Ran:
    """A layer run with its graph. slope: the gradient at what leaves it."""

    def __init__(
        self,
        base: Recording,
        where: Positions,
        index: int,
        state: Tensor,
        slope: Tensor,
        visible: Any,
        start: Start | None,
    ) -> None:
        self.state, self.slope_behind = state.detach().requires_grad_(), slope.to(state.device)
        with torch.enable_grad():
            leaving, self.read = _through(base, where, index, self.state, visible, start)
        slopes = torch.autograd.grad(leaving, [*self.read, self.state], self.slope_behind, retain_graph=True)
        *self.slopes, self.entering_slope = slopes

    def slope(self, reader: Reader) -> Float[Tensor, "b s d"]:
        """The gradient at a reader's own input."""
        if reader.kind == "mlp":  # of all that the state is heard by, neither heads or mixer nor the residual itself
            around = pulled(self.read, self.state, self.slopes) if self.read else 0
            return self.entering_slope.float() - around - self.slope_behind.float()
        if reader.kind == "mixer":
            return pulled(self.read, self.state, self.slopes)
        part = "qkv".index(reader.kind)
        return pulled([self.read[part][:, reader.head]], self.state, [self.slopes[part][:, reader.head]])


def _through(
    base: Recording, where: Positions, index: int, state: Tensor, visible: Any, start: Start | None
) -> tuple[Float[Tensor, "b s d"], list[Tensor]]:
    """What leaves a layer at the rows, and what its heads read with, or what a mixer in their place writes.

    The rows read the recorded keys and values of all others. start: where something is added to what the layer writes.
    """
    block, record = base.subject.layers[index], base.layers[index]
    read: list[Tensor] = []

    def attend(call: AttentionCall) -> Tensor | None:
        if call.module is not anatomy.attention_of(block):
            return None
        read.extend((call.query, call.key, call.value))
        return replay_attention.attend(call, record, record.key, record.value, where, [], visible).flatten(0, 1)

    def written(tensor: Tensor) -> Tensor:
        read.append(tensor)
        return tensor

    if record.whole:
        arguments = arguments_of_all(base, record.arguments, 1)
    else:
        arguments = arguments_at(base, where, record.arguments, 1)
    rows = where.put_each(state[None], record.resid_pre.to(state)[None].clone())[0] if record.whole else state
    with ExitStack() as stack:
        if record.mixed is not None:
            rewrite_output(stack, block, "attn_out", written)
        if start is not None and start.push is not None:
            push = start.push.to(state)
            rewrite_output(stack, block, start.site, lambda tensor: tensor + push.reshape(tensor.shape))
        stack.enter_context(replaying(attend))
        leaving = first(block(**arguments | {"hidden_states": rows})).reshape(rows.shape)
    return where.take(leaving) if record.whole else leaving, read


def pulled(outputs: Sequence[Tensor], state: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """Gradients at `outputs` pulled back to `state`."""
    slopes = [slope.to(output) for output, slope in zip(outputs, slopes, strict=True)]
    return torch.autograd.grad(outputs, state, slopes, retain_graph=True)[0].detach().float()
