"""Effects of interventions."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._checks import NAN, require, require_shape, widen


def percent_change(
    after: Float[Tensor, "..."] | float | int, before: Float[Tensor, "..."] | float | int
) -> Float[Tensor, "..."]:
    """100 · (after − before) / before, per cent; NaN where before is 0. Shapes broadcast.

    Source: arXiv 2411.18620 (knockout). Errors: ValueError where the shapes do not broadcast.
    """
    new, old = widen(torch.as_tensor(after)), widen(torch.as_tensor(before))
    try:
        torch.broadcast_shapes(new.shape, old.shape)
    except RuntimeError as error:
        raise ValueError(f"shapes {tuple(new.shape)} and {tuple(old.shape)} do not broadcast") from error
    return (100 * (new - old) / old).masked_fill(old == 0, NAN)


def normalized_effect(
    patched: Float[Tensor, "*shape b"], clean: Float[Tensor, "b"], donor: Float[Tensor, "b"]
) -> Float[Tensor, "*shape"]:
    """(mean patched − mean clean) / (mean donor − mean clean): means first, ratio last. [..., b] → [...].

    0: nothing moved, 1: the donor's value reached; not bounded. Examples with NaN (positions that they do
    not have) leave all three means; NaN where none is left or donor and clean agree.
    Source: arXiv 2310.08744 (effect of a head). Errors: ValueError for unequal shapes or no examples.
    """
    require(patched.ndim >= 1 and patched.shape[-1] > 0, "patched holds no examples")
    require_shape("clean", clean, patched.shape[-1])
    require_shape("donor", donor, patched.shape[-1])
    moved, span = widen(patched) - widen(clean), widen(donor) - widen(clean)
    missing = moved.isnan() | span.isnan()
    span = span.expand_as(moved).masked_fill(missing, 0.0).sum(-1)
    return (moved.masked_fill(missing, 0.0).sum(-1) / span).masked_fill(span == 0, NAN)


def top_heads(effects: Float[Tensor, "layer h"], share: float | int) -> list[tuple[int, int]]:
    """The max(1, round(share · layers · heads)) heads of largest |effect|, largest first: (layer, head).

    Ties go to the lower layer, then the lower head. Both signs count. A layer of NaN alone has no heads: it is left
    out, and the share is of the heads of the others.
    Source: arXiv 2310.08744 takes the top 2 % per path-patching stage; this is a flat share of one map.
    Errors: ValueError for share outside (0, 1], another shape, no heads, or a NaN effect beside others.
    """
    require(0 < share <= 1, f"share = {share} is outside (0, 1]")
    require(effects.ndim == 2 and effects.numel() > 0, f"effects has shape {tuple(effects.shape)}")
    bare = effects.isnan().all(1)
    require(not bool(bare.all()), "effects holds NaN alone: there are no heads")
    require(not bool(effects[~bare].isnan().any()), "effects holds NaN: a head without an effect cannot be ranked")
    count = max(1, round(share * effects[~bare].numel()))
    order = (
        widen(effects)
        .abs()
        .masked_fill(bare[:, None], -1.0)
        .flatten()
        .sort(descending=True, stable=True)
        .indices[:count]
    )
    return [divmod(int(i), effects.shape[1]) for i in order]
