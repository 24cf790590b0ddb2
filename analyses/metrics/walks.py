"""Attention over layers as paths: rollout, and which positions reach the last one."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._checks import require, require_shape, widen


def rollout_step(
    pattern: Float[Tensor, "*batch h n n"], below: Float[Tensor, "*batch n n"] | None = None
) -> Float[Tensor, "*batch n n"]:
    """One layer of `attention_rollout`: rownorm(mean_h A + I) · below; `below` is the identity under layer 0.

    Errors: ValueError for unequal shapes.
    """
    require(pattern.shape[-1] == pattern.shape[-2], f"pattern has shape {tuple(pattern.shape)}, expected [..., n, n]")
    mixed = widen(pattern).mean(-3) + torch.eye(pattern.shape[-1], dtype=widen(pattern).dtype, device=pattern.device)
    mixed = mixed / mixed.sum(-1, keepdim=True)
    if below is None:
        return mixed
    require_shape("below", below, *mixed.shape)
    return mixed @ below


def attention_rollout(patterns: Iterable[Float[Tensor, "*batch h n n"]]) -> Float[Tensor, "*batch n n"]:
    """Share of the input at key k in the state at query q after all layers, by attention alone; rows sum to 1.

    patterns: of one layer after the other from below, as a generator, so that one [n, n] state is held. Values and MLPs
    are ignored. Source: Abnar & Zuidema 2020; EMNLP Findings 2023.868, code. Errors: ValueError without layers.
    """
    rolled = None
    for pattern in patterns:
        rolled = rollout_step(pattern, rolled)
    if rolled is None:
        raise ValueError("patterns holds no layers")
    return rolled


def attention_edges(pattern: Float[Tensor, "*batch h n n"], threshold: float | int) -> Bool[Tensor, "*batch n n"]:
    """Edges of a layer's graph between different positions: some head's attention is above the threshold.

    The residual's edge of each position to itself is left to `reachable_positions` and `hops`. A row of n uniform
    weights passes where n < 1/threshold only. Source: arXiv 2503.03588 (there the graph is the mask), style.
    """
    strong = (pattern > threshold).any(-3)
    return strong & ~torch.eye(strong.shape[-1], dtype=torch.bool, device=strong.device)


def reachable_positions(edges: Bool[Tensor, "layer n n"]) -> Bool[Tensor, "layer n"]:
    """The last position's receptive field after walking down 1, 2, … layers from the top, itself included.

    Coverage is the last row's mean. Source: arXiv 2503.03588, style. Errors: ValueError without layers.
    """
    require(len(edges) > 0, "edges holds no layers")
    field = torch.zeros(edges.shape[-1], dtype=torch.bool, device=edges.device)
    field[-1] = True
    fields = []
    for layer in edges.flip(0):
        field = field | layer[field].any(0)
        fields.append(field)
    return torch.stack(fields)


def hops(edges: Bool[Tensor, "n n"]) -> Int[Tensor, "n"]:
    """Fewest edges from the last position to each position, breadth first; −1 where no path leads.

    edges: of one graph, as the union of the layers' graphs. Source: arXiv 2503.03588, style.
    """
    n = len(edges)
    distance = torch.full((n,), -1, device=edges.device)
    front = torch.zeros(n, dtype=torch.bool, device=edges.device)
    front[-1] = True
    for step in range(n):
        distance[front] = step
        front = edges[front].any(0) & (distance < 0)
    return distance
