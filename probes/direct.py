"""Direct logit attribution: what each part of the last residual adds to a measure that is linear in the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..data.example import UserError
from . import anatomy
from .fingerprint import fetched
from .replay import Recording, at_last

if TYPE_CHECKING:
    from .subject import Subject


class Parts(NamedTuple):
    """heads: [layer, head, b], mlps: [layer, b], rest: [b] (embeddings and biases); in logits, and they sum to it."""

    heads: Tensor
    mlps: Tensor
    rest: Tensor


@torch.no_grad()
def direct_attribution(subject: Subject, base: Recording, measure: Any) -> Parts:
    """Each part's share of the measure, the final norm's scale held as it is (before a soft cap, where there is one).

    base: a recording with z and mlp_out. UserError: a measure without a direction; blocks that norm what their
    attention wrote, where a head has no share of its own.
    """
    if not hasattr(measure, "direction"):
        raise UserError("direct logit attribution needs a measure that is linear in the logits: logit_difference")
    if any(anatomy.attention_writer(layer) is not anatomy.attention_of(layer) for layer in subject.layers):
        raise UserError(f"{subject.family} norms what its attention writes: heads have no share of their own")
    head = subject.model.get_output_embeddings()
    linear = anatomy.linear_head(subject.model) or (fetched(head), None, 1.0)
    direction = measure.direction(linear[0].float()) * linear[2]
    through = frozen_norm(subject.norm, base.resid)

    def along(part: Float[Tensor, "... b d"]) -> Float[Tensor, "... b"]:
        return (through(part.float()) * direction.to(part.device)).sum(-1).cpu()

    heads, mlps = [], []
    for i, kept in enumerate(base.layers):
        scale = anatomy.multiplier(subject.layers[i])
        z = at_last(kept.site("z"), base.last).float()
        heads.append(along(torch.einsum("bhe,hed->hbd", z, subject.W_O(i).float()) * scale))
        mlps.append(along(at_last(kept.site("mlp_out"), base.last) * scale))
    found = torch.stack(heads), torch.stack(mlps)
    total = (subject.norm(base.resid).float() * direction.to(base.resid.device)).sum(-1).cpu()
    return Parts(*found, total - found[0].sum((0, 1)) - found[1].sum(0))


def frozen_norm(norm: nn.Module, state: Float[Tensor, "b d"]) -> Callable[[Tensor], Tensor]:
    """The linear part of a norm (RMS or layer norm) at `state`, its scale held; found by asking the module.

    norm(state) = frozen(state) + bias, whatever the family does to its gains.
    """
    signs = torch.ones(state.shape[-1], device=state.device, dtype=state.dtype)
    signs[1::2] = -1
    up, down, level = (norm(x[None]).float()[0] for x in (signs, -signs, signs.abs()))
    gain, bias = (up - down) / 2 * signs.float(), (up + down) / 2
    # A layer norm takes the mean away: ones become its bias.
    centred = bool((level - bias).abs().max() < 0.5 * gain.abs().max())

    def shaped(part: Tensor) -> Tensor:
        return gain * (part - part.mean(-1, keepdim=True) if centred else part)

    plain, seen = shaped(state.float()), norm(state).float() - bias
    scale = (plain * seen).sum(-1, keepdim=True) / plain.square().sum(-1, keepdim=True)
    return lambda part: shaped(part.float()) * scale
