"""What an output rests on: occluded sources, removed modalities, parts of a sum."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import require, require_shape, widen


def occlusion_saliency(
    divergence: Float[Tensor, "occlusion token"], occluded: Bool[Tensor, "occlusion source"]
) -> Float[Tensor, "token source"]:
    """Mean over the occlusions that hide a source of KL(original ‖ occluded) of each output token; 0 if never hidden.

    [token, source], nats, ≥ 0. Its `correlation` with attention, flattened or row by row, is how far attention
    explains. Source: code of SPES (saliency); arXiv 2509.18010, note. Errors: ValueError for unequal shapes.
    """
    require_shape("divergence", divergence, len(occluded), divergence.shape[-1])
    weights = occluded.to(widen(divergence).dtype)
    return widen(divergence).T @ weights / weights.sum(0).clamp_min(1.0)


class Interaction(NamedTuple):
    """interaction: [vocab], logits; its variance over the vocabulary; guided: logits, −∞ where a token is left out."""

    interaction: Float[Tensor, "vocab"]
    variance: Float[Tensor, ""]
    guided: Float[Tensor, "vocab"]


def modality_interaction(
    full: Float[Tensor, "vocab"],
    no_image: Float[Tensor, "vocab"],
    no_text: Float[Tensor, "vocab"],
    neither: Float[Tensor, "vocab"],
    *,
    min_variance: float | int = 1.0,
    beta: float | int = 0.1,
) -> Interaction:
    """INTER: full − no image − no text + neither of each next-token logit, and the logits that it guides.

    The interaction is added where its variance (divisor n − 1) reaches `min_variance`; tokens whose full logit is below
    max + ln beta are left out. Logits have a free constant per run: read differences of two tokens.
    Source: arXiv 2507.05056 (INTER), code. Errors: ValueError for unequal shapes or beta outside (0, 1].
    """
    require(0 < beta <= 1, f"beta = {beta} is outside (0, 1]")
    for name, logits in (("no_image", no_image), ("no_text", no_text), ("neither", neither)):
        require_shape(name, logits, *full.shape)
    whole = widen(full)
    interaction = whole - widen(no_image) - widen(no_text) + widen(neither)
    variance = interaction.var()
    guided = whole + interaction if bool(variance >= min_variance) else whole
    plausible = whole >= whole.max() + math.log(beta)
    return Interaction(interaction, variance, guided.masked_fill(~plausible, -torch.inf))


class RouteShares(NamedTuple):
    """Shares of a sum, 0…1, together 1 at each position: parts [part, …], residual […]."""

    parts: Float[Tensor, "part *position"]
    residual: Float[Tensor, "*position"]


def route_nearness(
    part: Float[Tensor, "*#n d"], whole: Float[Tensor, "*#n d"], floor: float | int = 1e-5
) -> Float[Tensor, "..."]:
    """How much nearer a part brings zero to the whole by the L1 norm: max(floor, ‖y‖₁ − ‖y − part‖₁); broadcast.

    At most ‖part‖₁; what points away from the whole gets the floor. Source: as `route_shares`, which divides by sums.
    """
    part, whole = widen(part), widen(whole)
    return (whole.abs().sum(-1) - (whole - part).abs().sum(-1)).clamp_min(floor)


def route_shares(
    parts: Float[Tensor, "part *position d"], residual: Float[Tensor, "*position d"], floor: float | int = 1e-5
) -> RouteShares:
    """Information flow routes: how near each part and the residual bring the zero to their sum y, by the L1 norm.

    `route_nearness`, divided by the sum over parts and residual. Walk down from the output, so that only kept positions
    are rows. Source: arXiv 2403.00824, 2404.07004, code (its distance adds 1e-6 to every coordinate).
    Errors: ValueError for unequal shapes.
    """
    require_shape("residual", residual, *parts.shape[1:])
    everything = torch.cat([widen(parts), widen(residual)[None]])
    nearness = route_nearness(everything, everything.sum(0), floor)
    shares = nearness / nearness.sum(0)
    return RouteShares(shares[:-1], shares[-1])


def strong_routes(shares: RouteShares, threshold: float | int = 0.04) -> RouteShares:
    """Shares not above the threshold dropped, each by itself, the rest divided by its sum; zeros where none is left.

    Threshold the (head, token) parts before heads are summed to edges. Source: arXiv 2404.07004, code, where a position
    without a strong part divides by 0.
    """
    everything = torch.cat([shares.parts, shares.residual[None]])
    strong = everything.where(everything > threshold, 0.0)
    total = strong.sum(0)
    strong = strong / total.masked_fill(total == 0, 1.0)
    return RouteShares(strong[:-1], strong[-1])
