"""How far each module turns the residual, beside updates that could not mean it; where inner activations are large.

Everything is a mean over an example's tokens without the first, whose norm is of another size in most models.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.sites import SITES
from .. import metrics
from ..common.places import without_first

KINDS = ("block", "attention", "MLP")
NULLS = ("turned", "orthogonal", "of other tokens")  # a module's own update, and what it is compared with
INSIDE = ("z", "z as it is written", "MLP inside")
SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 1 / 2)  # of the inner dimensions, the largest first


def importance(layer: Layer, batch: Batch) -> Float[Tensor, "b kinds nulls"]:
    """1 − cos of the residual before and after each module: as it is, of an orthogonal update of equal norm, and of the
    update of the next token of the prompt. NaN for a module that the layer does not have, or one token alone.
    """
    kept = without_first(batch).to(layer.resid_pre.device)
    found = kept.new_full((len(kept), len(KINDS), len(NULLS)), torch.nan, dtype=torch.float)
    for kind, before, update in _updates(layer):
        found[:, KINDS.index(kind)] = _turned(before.float(), update.float(), kept)
    return found


def _updates(layer: Layer) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(kind, the residual that a module adds to, what it adds), [b, p, d] each."""
    yield "block", layer.resid_pre, layer.resid_post - layer.resid_pre
    if layer.attends:
        yield "attention", layer.resid_pre, layer.attn_out
    if layer.stack.has(layer.index, SITES["mlp_out"]):
        between = layer.stack.has(layer.index, SITES["resid_mid"])
        yield "MLP", layer.resid_mid if between else layer.resid_pre, layer.mlp_out


def _turned(
    before: Float[Tensor, "b t d"], update: Float[Tensor, "b t d"], kept: Bool[Tensor, "b t"]
) -> Float[Tensor, "b nulls"]:
    """`metrics.cosine_importance` and `metrics.orthogonal_importance` of each example's kept tokens, from inner
    products: no sum of states is made. Of other tokens: the update of the one before, of the first that of the last.
    """
    rows, place = torch.arange(len(kept), device=kept.device), torch.arange(kept.shape[1], device=kept.device)
    first, last = place.masked_fill(~kept, kept.shape[1] - 1).amin(1), (place * kept).amax(1)
    states, updates, both = before.norm(dim=-1) ** 2, update.norm(dim=-1) ** 2, torch.linalg.vecdot(before, update)
    with_other, others = torch.zeros_like(both), updates.roll(1, 1)
    with_other[:, 1:] = torch.linalg.vecdot(before[:, 1:], update[:, :-1])
    with_other[rows, first] = torch.linalg.vecdot(before[rows, first], update[rows, last])
    others[rows, first] = updates[rows, last]
    own, moved = (_cosine(states, *one) for one in ((both, updates), (with_other, others)))
    orthogonal = (1 + updates / states).rsqrt()
    moved = moved.masked_fill(kept.sum(1, keepdim=True) < 2, torch.nan)
    return 1 - torch.stack([one.masked_fill(~kept, 0.0).sum(1) / kept.sum(1) for one in (own, orthogonal, moved)], 1)


def _cosine(states: Tensor, both: Tensor, updates: Tensor) -> Tensor:
    """cos(x, x + f) by x·x, x·f and f·f."""
    return (states + both) / (states * (states + 2 * both + updates)).sqrt()


def energies(layer: Layer, batch: Batch) -> tuple[Float[Tensor, "b inside shares"], Float[Tensor, "b h"] | None]:
    """Which share of Σ act² the largest dimensions hold, of z, of z with each dimension times the norm of what W_O
    writes for it, and of the MLP's neurons; and each head's score as in TransAct, None without heads.
    """
    kept = without_first(batch).to(layer.resid_pre.device)
    found = kept.new_full((len(kept), len(INSIDE), len(SHARES)), torch.nan, dtype=torch.float)
    if layer.attends:
        z = _energy(layer.z.flatten(2), kept)
        through = layer.stack.W_O(layer.index).float().norm(dim=-1).flatten().to(z.device)
        found[:, 0], found[:, 1] = _largest(z), _largest(z * through)
    if layer.stack.has(layer.index, SITES["mlp_post"]):
        found[:, 2] = _largest(_energy(layer["mlp_post"], kept))
    if not layer.attends:
        return found, None
    return found, torch.stack([metrics.head_energy(one) for one in z.unflatten(1, layer.z.shape[2:])])


def _energy(inner: Float[Tensor, "b p n"], kept: Bool[Tensor, "b p"]) -> Float[Tensor, "b n"]:
    return torch.stack([metrics.activation_energy(one[real]) for one, real in zip(inner, kept, strict=True)])


def _largest(energy: Float[Tensor, "b n"]) -> Float[Tensor, "b shares"]:
    """Shares of Σ energy² in the largest dimensions."""
    squares = energy.double().square().sort(dim=1, descending=True).values
    held = squares.cumsum(1) / squares.sum(1, keepdim=True)
    return held[:, [counted(share, held.shape[1]) - 1 for share in SHARES]].float()


def counted(share: float, count: int) -> int:
    """So many of `count`, at least one."""
    return max(1, round(share * count))
