"""Down from a prompt's output along the parts that are kept: what is summed on the way, and the edges themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.observe.layer import Layer
from ._route_parts import MLP, Place, Step, steps

ADDED = (
    *("rows", "attention", "between", "from first", "residual", "MLP", "past the MLP"),
    *("held", "edges", "possible", "attends first", "attends between"),
)
KINDS = ("attention", "MLP", "residual")
EDGE = ("layer", "state", "to_state", "source", "target", "kind", "value", "followed", "heads", "head", "of head")


class Route(NamedTuple):
    """sums: of each layer, over its kept rows, by the names ADDED. importance, previous, on: of each head Σ of its kept
    shares, Σ of its attention to the token before, whether any share is kept. flow: of each state the share of the
    output that was followed down to each token. edges: EDGE of every kept edge.
    """

    sums: Float[Tensor, "layer sum"]
    importance: Float[Tensor, "layer h"]
    previous: Float[Tensor, "layer h"]
    on: Float[Tensor, "layer h"]
    flow: Float[Tensor, "state n"]
    edges: Float[Tensor, "edge field"]


@torch.no_grad()
def walk(subject: Any, layers: list[Layer], place: Place, threshold: float) -> Route:
    """The route of the last token of a prompt, from a forward's layers."""
    n, h = len(place.real), subject.n_heads
    sums = torch.zeros(len(layers), len(ADDED))
    heads = torch.full((3, len(layers), h), torch.nan)
    flow = torch.zeros(len(layers) + 1, n, device=place.real.device)
    flow[-1, -1], reached, edges = 1.0, torch.arange(n, device=flow.device) == n - 1, []
    for layer in reversed(layers):
        i, rows = layer.index, reached.nonzero()[:, 0]
        told, at = dict.fromkeys(ADDED, 0.0) | {"rows": float(len(rows))}, flow[i + 1]
        for step in steps(subject, layer, place, rows, threshold) if len(rows) else ():
            edges.append(_edges(i, step, rows, at))
            told |= _sums(step, rows)
            at, reached = _below(step, rows, at)
            if step.pattern is not None:
                told |= _attended(layer, place, rows, step.pattern)
                heads[:, i] = _of_heads(step, rows, step.pattern).cpu()
        flow[i], sums[i] = at, torch.tensor([told[name] for name in ADDED])
    return Route(sums, heads[0], heads[1], heads[2], flow.cpu(), torch.cat(edges).cpu())


def _below(step: Step, rows: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """What of the flow comes from each token of the state below, and which tokens anything was kept of."""
    weights, between = step.weights, step.weights.heads.sum(2)
    stays = weights.residual + weights.own.get(MLP, torch.zeros_like(weights.residual))
    below = (flow[rows] @ between).index_add(0, rows, flow[rows] * stays)
    reached = (between > 0).any(0)
    return below, reached.index_put((rows,), reached[rows] | (stays > 0))


def _sums(step: Step, rows: Tensor) -> dict[str, float]:
    """The step's shares, summed over the rows. "between": of other tokens than the row's own."""
    weights, mlp = step.weights, step.weights.own.get(MLP)
    found: dict[str, Tensor] = {} if mlp is None else {"MLP": mlp.sum()}
    if step.below % 1:
        return {name: float(value) for name, value in (found | {"past the MLP": weights.residual.sum()}).items()}
    edges = weights.heads.sum(2)
    away = edges.scatter(1, rows[:, None], 0.0)
    found |= {"attention": edges.sum(), "between": away.sum(), "from first": away[:, 0].sum()}
    found |= {"residual": weights.residual.sum(), "held": weights.held.sum(), "edges": (away > 0).sum()}
    return {name: float(value) for name, value in found.items()}


def _attended(layer: Layer, place: Place, rows: Tensor, pattern: Tensor) -> dict[str, float]:
    """Attention of the same rows, summed over heads; and how many pairs of different tokens the layer could connect."""
    away = pattern.scatter(2, rows[None, :, None].expand(len(pattern), -1, 1), 0.0)
    allowed = layer.attention.allowed(slice(place.example, place.example + 1))[0].any(0)
    allowed = allowed[place.real][:, place.real].clone().fill_diagonal_(False)
    found = {"attends first": away[..., 0].sum(), "attends between": away.sum(), "possible": allowed.sum()}
    return {name: float(value) for name, value in found.items()}


def _of_heads(step: Step, rows: Tensor, pattern: Tensor) -> Float[Tensor, "3 h"]:
    """Importance, attention to the token before, whether it is on the route."""
    heads, behind = step.weights.heads, rows > 0
    before = (rows - 1).clamp(min=0)[None, :, None].expand(len(pattern), -1, 1)
    previous = (pattern.gather(2, before)[..., 0] * behind).sum(1)
    return torch.stack([heads.sum((0, 1)), previous, (heads > 0).flatten(0, 1).any(0).float()])


def _edges(layer: int, step: Step, rows: Tensor, flow: Tensor) -> Float[Tensor, "edge field"]:
    """The step's kept edges, heads summed; for each how many heads are in it, the strongest and its share."""
    weights, found = step.weights, []
    between = weights.heads.sum(2)
    if weights.heads.shape[2]:
        row, source = (between > 0).nonzero(as_tuple=True)
        own = weights.heads[row, source]
        strongest = own.max(1)
        told = [(own > 0).sum(1), strongest.indices, strongest.values]
        found.append(_rows(layer, step, source, rows[row], 0, between[row, source], flow, told))
    for kind, values in ((1, weights.own.get(MLP)), (2, weights.residual)):
        if values is not None and bool((values > 0).any()):
            chosen = values > 0
            found.append(_rows(layer, step, rows[chosen], rows[chosen], kind, values[chosen], flow, None))
    return torch.cat(found) if found else flow.new_zeros(0, len(EDGE))


def _rows(
    layer: int, step: Step, source: Tensor, target: Tensor, kind: int, value: Tensor, flow: Tensor, told: Any
) -> Float[Tensor, "edge field"]:
    def same(number: float) -> Tensor:
        return torch.full_like(value, number)

    told = told or [same(0), same(-1), same(0)]
    fields = [same(layer), same(step.below), same(step.above), source, target, same(kind), value, flow[target] * value]
    return torch.stack([field.to(value) for field in (*fields, *told)], 1)
