"""What a layer's state is a sum of, at some rows of one prompt: every (head, token), the MLP, biases, the residual."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.model.frozen_norms import behind_projection
from ...probes.observe.layer import Layer
from ...probes.sites import SITES
from .. import metrics
from ..common.controls import permutations

BUDGET = 2**22  # numbers of one head's parts that are alive at once
MLP, OTHER = "MLP", "bias or mixer"


class Place(NamedTuple):
    """example: its number in the batch. real: its n tokens' places, Int[n]. key: names the draws of its control, "" for
    the route itself.
    """

    example: int
    real: Int[Tensor, " n"]
    key: str = ""


class Parts(NamedTuple):
    """Of r rows. heads: each head's part of every token, [r, n, d]; written: what all of them add, [r, d]. own: parts
    of the row's own token. All of them and the residual sum to the state.
    """

    residual: Float[Tensor, "r d"]
    own: dict[str, Tensor]
    heads: Callable[[], Iterator[Float[Tensor, "r n d"]]] | None = None
    written: Tensor | None = None

    def whole(self) -> Float[Tensor, "r d"]:
        total = self.residual + sum(self.own.values())
        return total if self.written is None else total + self.written


class Weights(NamedTuple):
    """Kept shares, together 1 in each row. heads: [r, n, h], without heads [r, n, 0]. held: what the kept ones were of
    all before they were divided by their sum.
    """

    heads: Float[Tensor, "r n h"]
    own: dict[str, Tensor]
    residual: Float[Tensor, " r"]
    held: Float[Tensor, " r"]


class Step(NamedTuple):
    """From one state to the next above; states count layers, halves lie between attention and MLP. pattern: that of the
    rows, where heads attend in the step.
    """

    below: float
    above: float
    weights: Weights
    pattern: Float[Tensor, "h r n"] | None = None


def steps(subject: Any, layer: Layer, place: Place, rows: Int[Tensor, " r"], threshold: float) -> Iterator[Step]:
    """The layer's steps from above at these of the prompt's tokens: its MLP, then its attention; one in parallel
    blocks.
    """
    i, stack = layer.index, layer.stack
    attends, mlp = stack.has(i, SITES["attn_out"]), stack.has(i, SITES["mlp_out"])
    if attends and mlp and stack.has(i, SITES["resid_mid"]):
        yield Step(i + 0.5, i + 1.0, _of_mlp(layer, "resid_mid", place, rows, threshold))
        yield Step(i, i + 0.5, *_of_attention(subject, layer, place, rows, threshold))
    elif attends:
        yield Step(i, i + 1.0, *_of_attention(subject, layer, place, rows, threshold, mlp))
    else:
        yield Step(i, i + 1.0, _of_mlp(layer, "resid_pre", place, rows, threshold))


def _of_mlp(layer: Layer, before: str, place: Place, rows: Tensor, threshold: float) -> Weights:
    parts = Parts(_at(layer, before, place, rows), {MLP: _at(layer, "mlp_out", place, _mlp_rows(layer, place, rows))})
    return weigh(parts, len(place.real), threshold)


def _of_attention(
    subject: Any, layer: Layer, place: Place, rows: Tensor, threshold: float, with_mlp: bool = False
) -> tuple[Weights, Tensor | None]:
    """In few rows at a time, so that a head's parts are never larger than the budget; and the rows' pattern."""
    few = max(1, BUDGET // (len(place.real) * subject.d_model))
    pattern = pattern_at(layer, place, rows) if layer.attends else None
    patterns = [None] * len(rows) if pattern is None else pattern.split(few, 1)
    found = [
        weigh(attention_parts(subject, layer, place, some, with_mlp, of_some), len(place.real), threshold)
        for some, of_some in zip(rows.split(few), patterns, strict=False)
    ]
    own = {name: torch.cat([one.own[name] for one in found]) for name in found[0].own}
    heads, residual, held = (torch.cat([getattr(one, n) for one in found]) for n in ("heads", "residual", "held"))
    return Weights(heads, own, residual, held), pattern


def attention_parts(
    subject: Any, layer: Layer, place: Place, rows: Tensor, with_mlp: bool = False, pattern: Tensor | None = None
) -> Parts:
    """The parts of what follows a layer's attention; of a mixer in its place one part that names no token. pattern: of
    these rows, where it is known.
    """
    residual, own = _at(layer, "resid_pre", place, rows), {}
    if with_mlp:
        own[MLP] = _at(layer, "mlp_out", place, _mlp_rows(layer, place, rows))
    if not layer.attends:
        return Parts(residual, own | {OTHER: _at(layer, "attn_out", place, rows)})
    W_O = subject.W_O(layer.index).detach().float()
    order = _order(len(W_O), f"{place.key}|heads|{layer.index}") if place.key else torch.arange(len(W_O))
    z = layer.z[place.example, place.real[rows]].float()
    behind = z[:, order.argsort().to(z.device)].flatten(1) @ W_O.flatten(0, 1)  # W_O of other heads without a copy
    reach, bias = behind_projection(subject, layer.index, behind, layer.z.dtype)
    gate = _gate(z, layer.attn_z[place.example, place.real[rows]].float()) if layer.gated else None
    attention = pattern_at(layer, place, rows) if pattern is None else pattern
    values = layer.v[place.example, place.real].float()
    values = values.repeat_interleave(len(W_O) // values.shape[1], 1)

    def heads() -> Iterator[Tensor]:
        for h, other in enumerate(order.tolist()):
            weight = W_O[other]
            if gate is None:
                part = attention[h, :, :, None] * (values[:, h] @ weight)
            else:
                part = (attention[h, :, :, None] * values[:, h] * gate[:, None, h]) @ weight
            yield reach(part)

    return Parts(residual, own | ({OTHER: bias} if bool(bias.any()) else {}), heads, reach(behind))


def pattern_at(layer: Layer, place: Place, rows: Int[Tensor, " r"]) -> Float[Tensor, "h r n"]:
    """Attention of the prompt's own tokens at some of them."""
    example = slice(place.example, place.example + 1)
    return layer.attention.pattern(place.real[rows][None], example)[0][:, :, place.real]


def weigh(parts: Parts, n: int, threshold: float) -> Weights:
    """The shares that lie above the threshold, part by part; where none does, the largest part alone."""
    whole = parts.whole()
    near = [] if parts.heads is None else [metrics.route_nearness(part, whole[:, None]) for part in parts.heads()]
    heads = torch.stack(near, -1) if near else whole.new_zeros(len(whole), n, 0)
    others = [metrics.route_nearness(part, whole) for part in (*parts.own.values(), parts.residual)]
    everything = torch.cat([heads.flatten(1), torch.stack(others, 1)], 1)
    shares = (everything / everything.sum(1, keepdim=True)).T
    strong = metrics.strong_routes(metrics.RouteShares(shares[:-1], shares[-1]), threshold)
    kept = torch.cat([strong.parts, strong.residual[None]])
    alone = torch.nn.functional.one_hot(shares.argmax(0), len(shares)).T.to(kept)
    kept = torch.where(kept.sum(0) > 0, kept, alone)
    held = (shares * (kept > 0)).sum(0)
    count = heads[0].numel()
    own = dict(zip(parts.own, kept[count:], strict=False))
    return Weights(kept[:count].T.reshape(heads.shape), own, kept[-1], held)


def _at(layer: Layer, site: str, place: Place, rows: Tensor) -> Float[Tensor, "r d"]:
    return layer[site][place.example, place.real[rows]].float()


def _mlp_rows(layer: Layer, place: Place, rows: Tensor) -> Tensor:
    """In the control another token's MLP stands in."""
    return _order(len(place.real), f"{place.key}|MLP|{layer.index}").to(rows.device)[rows] if place.key else rows


def _order(count: int, key: str) -> Int[Tensor, " count"]:
    return permutations(count, [key])[0]


def _gate(z: Tensor, attended: Tensor) -> Tensor:
    """What stands between the attention and W_O, as a factor of each channel; 0 where nothing came through."""
    return torch.where(attended == 0, 0.0, z / attended.masked_fill(attended == 0, 1.0))
