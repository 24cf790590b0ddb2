"""Direct logit attribution: what each part of the last residual adds to a measure that is linear in the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import SubjectError, UserError
from ..model import anatomy
from ..model.frozen_norms import affine, written_by_heads
from ..model.head import head_parts
from .positions import at_last
from .recording import Recording

if TYPE_CHECKING:
    from ..model.subject import Subject


class Parts(NamedTuple):
    """heads: [layer, head, b], NaN in layers without attention; mlps: [layer, b]; rest: [b] (embeddings, biases, and
    mixers that are no attention); in logits, and they sum to it.
    """

    heads: Tensor
    mlps: Tensor
    rest: Tensor


@torch.no_grad()
def direct_attribution(subject: Subject, base: Recording, measure: Any) -> Parts:
    """Each part's share of the measure (before a soft cap, where there is one), all norms' scales held as they are.

    Those are the final norm's and, in families that have one, the one between the heads and the residual.
    base: a recording with z and mlp_out. UserError: a measure without a direction; a norm that has no scale to hold.
    """
    if not hasattr(measure, "direction"):
        raise UserError("direct logit attribution needs a measure that is linear in the logits: logit_difference")
    try:
        return _attributed(subject, base, measure)
    except SubjectError as error:
        raise UserError(f"{subject.family}: {error}: heads have no share of their own") from None


def _attributed(subject: Subject, base: Recording, measure: Any) -> Parts:
    weight, bias, scale = head_parts(subject.model)
    direction, norm = measure.direction(weight).to(base.resid.device).float(), affine(subject.norm, base.resid)
    read = norm.pull(direction) / norm.scale(base.resid)

    def along(part: Float[Tensor, "... b d"]) -> Float[Tensor, "... b"]:
        return (part.float() * read.to(part.device)).sum(-1).cpu() * scale

    heads, mlps = [], []
    for i, kept in enumerate(base.layers):
        mlp = at_last(kept.site("mlp_out"), base.last)
        if kept.attends:
            z = at_last(kept.site("z"), base.last)
            heads.append(along(written_by_heads(subject, i, z)[0].transpose(0, 1)))
        else:
            heads.append(torch.full((subject.n_heads, len(base.last)), torch.nan))
        mlps.append(along(anatomy.times(mlp, anatomy.gain(subject.layers[i], "mlp_out"))))
    total = (subject.norm(base.resid).float() * direction).sum(-1).cpu()
    if bias is not None:
        total = total + measure.direction(bias[:, None])[:, 0].float().cpu()
    by_head, by_mlp = torch.stack(heads), torch.stack(mlps)
    return Parts(by_head, by_mlp, total * scale - by_head.nansum((0, 1)) - by_mlp.sum(0))
