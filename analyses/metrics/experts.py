"""Use of experts in a mixture, from the router's logits over tokens."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ._checks import require, widen
from .spread import row_entropy


class ExpertUse(NamedTuple):
    """load: [expert], sums to 1. never_active_share: 0…1. Entropies in nats, 0…ln experts; normalised: 0…1."""

    load: Float[Tensor, "expert"]
    never_active_share: Float[Tensor, ""]
    token_entropy_mean: Float[Tensor, ""]
    token_entropy_normalised: Float[Tensor, ""]
    entropy_of_mean_gate: Float[Tensor, ""]
    mutual_information: Float[Tensor, ""]
    entropy_of_load: Float[Tensor, ""]


def expert_use(router_logits: Float[Tensor, "n expert"], top_k: int) -> ExpertUse:
    """How one layer's router spreads n tokens over its experts.

    load: share of the n · top_k slots. Never active: in no token's top k, so it falls with n. Token entropy: of
    the full softmax, its mean, and that over ln experts. Mutual information: entropy of the mean gate − mean entropy
    of the gates, what the token says about the expert. Source: a note on OLMoE, style; the last two are added.
    Errors: ValueError without tokens, for fewer than two experts, top_k not in 1…experts.
    """
    n, experts = router_logits.shape
    require(n > 0 and experts >= 2, f"{n} tokens, {experts} experts")
    require(1 <= top_k <= experts, f"top_k = {top_k} is not in 1…{experts}")
    gates = widen(router_logits).softmax(-1)
    slots = torch.bincount(router_logits.topk(top_k, -1).indices.flatten(), minlength=experts).to(gates.dtype)
    load, each, mean = slots / slots.sum(), row_entropy(gates).mean(), row_entropy(gates.mean(0))
    never = (slots == 0).to(gates.dtype).mean()
    return ExpertUse(load, never, each, each / gates.new_tensor(experts).log(), mean, mean - each, row_entropy(load))
