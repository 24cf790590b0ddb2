"""The gradient at what every reader of the residual stream reads, from whole forwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..model import anatomy
from ..model.attention import replaying
from ..observe.layer import Layer
from ..observe.tracing import first, rewrite_output
from .attribution import GradientRun, run_with_gradient
from .edge_slopes import ByLayer, Reader, Slopes, pulled
from .layer_parts import instead_of, reading
from .measures import Measure
from .positions import Positions
from .recording import Recording


def slopes_of_forward(
    base: Recording, donor: Recording, where: Positions, measure: Measure, share: float, readers: ByLayer
) -> Slopes:
    """As `slopes_at_rows`, from one graph of the whole forward. where: all positions."""
    run = run_with_gradient(base, donor, measure, share, ("resid_pre",))
    behind = run.behind()
    for layer, here in readers.items():
        yield layer, map(where.take, _reader_slopes(run, behind, layer, here))


def _reader_slopes(
    run: GradientRun, behind: list[list[Tensor]], i: int, readers: Sequence[Reader]
) -> Iterator[Float[Tensor, "b p d"]]:
    """The gradient at the own input of each of these readers of layer i."""
    if i == len(run.layers):
        yield behind[-1][-1]
        return
    block, layer = run.subject.layers[i], run.layers[i]
    state = layer.resid_pre.detach().requires_grad_()
    arguments = layer.arguments | {"hidden_states": state}
    if not layer.attends:
        yield from _slopes_without_heads(block, arguments, layer, behind[i], readers)
        return
    with torch.enable_grad():
        again = reading(block, arguments)
        *slopes, leaving_slope = behind[i]
        read = dict(zip("qkv", zip((again.query, again.key, again.value), slopes, strict=True), strict=True))
        for reader in readers:
            if reader.kind != "mlp":
                tensor, slope = read[reader.kind]
                yield pulled([tensor[:, reader.head]], state, [slope[:, reader.head]])
                continue
            written = anatomy.output_projection(block)(layer.z.detach().flatten(2)).detach()
            with replaying(), instead_of(anatomy.attention_of(block), written):
                leaving = first(block(**arguments))
            yield pulled([leaving], state, [leaving_slope]) - leaving_slope


def _slopes_without_heads(
    block: Any, arguments: dict[str, Any], layer: Layer, behind: list[Tensor], readers: Sequence[Reader]
) -> Iterator[Float[Tensor, "b p d"]]:
    """The same of a layer with a mixer in the place of heads: of the mixer, or of the MLP with the mixer held."""
    state, (*mixer_slopes, leaving_slope) = arguments["hidden_states"], behind
    for reader in readers:
        mixed: list[Tensor] = []

        def keep(written: Tensor, reader: Reader = reader, mixed: list[Tensor] = mixed) -> Tensor:
            mixed.append(written)
            return written.detach() if reader.kind == "mlp" else written

        with torch.enable_grad(), replaying(), ExitStack() as stack:
            if mixer_slopes:
                rewrite_output(stack, block, "attn_out", keep)
            leaving = first(block(**arguments))
            if reader.kind == "mixer":
                yield pulled(mixed[:1], state, mixer_slopes[:1])
            else:
                yield pulled([leaving], state, [leaving_slope]) - leaving_slope
