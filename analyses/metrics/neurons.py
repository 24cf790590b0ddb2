"""Neurons: which belong to a group of texts (LAPE), what removing one does (PLND), how much of the energy they carry.

Counts and sums of squares add up over batches; division comes last.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._checks import require, require_shape, widen
from .spread import row_entropy


def group_entropy(probability: Float[Tensor, "*batch group"]) -> Float[Tensor, "*batch"]:
    """LAPE: entropy in nats of a neuron's activation probabilities over groups, normalised to sum 1; 0…ln groups.

    probability: share of a group's tokens with act(gate) > 0. A neuron that is silent in all groups has 0, as in the
    released code: `active_neurons` keeps it out. Source: arXiv 2402.16438; 2406.11193 over domains (MMNeuron), code.
    """
    p = widen(probability)
    total = p.sum(-1, keepdim=True)
    return row_entropy(p / total.masked_fill(total == 0, 1.0))


def smallest_at(values: Float[Tensor, "*shape"], rate: float | int) -> Float[Tensor, ""]:
    """LAPE's percentile: the round(rate · n)-th smallest of all n values, at least the first.

    Errors: ValueError without values or for a rate outside 0…1.
    """
    require(values.numel() > 0, "values holds no values")
    require(0 <= rate <= 1, f"rate = {rate} is outside 0…1")
    return values.flatten().kthvalue(max(1, round(values.numel() * rate))).values


def active_neurons(probability: Float[Tensor, "layer n group"], rate: float | int = 0.95) -> Bool[Tensor, "layer n"]:
    """LAPE's filter: the largest probability is above the `smallest_at` of all probabilities, strictly.

    Source: arXiv 2402.16438, code. Errors: as in `smallest_at`.
    """
    return probability.amax(-1) > smallest_at(probability, rate)


def specific_neurons(
    probability: Float[Tensor, "layer n group"], *, share: float | int = 0.01, filter_rate: float | int = 0.95
) -> Int[Tensor, "chosen 2"]:
    """The round(share · all) neurons of lowest `group_entropy` among `active_neurons`: (layer, neuron), lowest first.

    Ties go to the lower layer, then the lower neuron. Source: arXiv 2402.16438, code.
    Errors: ValueError for a share or rate outside 0…1.
    """
    require(0 <= share <= 1, f"share = {share} is outside 0…1")
    active = active_neurons(probability, filter_rate)
    entropies = group_entropy(probability).masked_fill(~active, torch.inf).flatten()
    count = min(round(share * entropies.numel()), int(active.sum()))
    order = entropies.sort(stable=True).indices[:count]
    return torch.stack([order // probability.shape[1], order % probability.shape[1]], -1)


def neuron_groups(
    probability: Float[Tensor, "layer n group"], neurons: Int[Tensor, "chosen 2"], *, bar_rate: float | int = 0.95
) -> Bool[Tensor, "chosen group"]:
    """The groups that a specific neuron belongs to: its probability there is above the bar, strictly.

    bar: the `smallest_at` of all probabilities, another rate than the filter's. A neuron may belong to several
    groups or none. Source: arXiv 2402.16438, code.
    """
    return probability[neurons[:, 0], neurons[:, 1]] > smallest_at(probability, bar_rate)


def neuron_removal(activation: Float[Tensor, "*batch n"], w_down: Float[Tensor, "d n"]) -> Float[Tensor, "*batch n"]:
    """Norm of the change of an MLP's output when one neuron is zero, exactly: |act_k| · ‖W_down[:, k]‖; no forward.

    Source: arXiv 2402.18815 (PLND), the form that its proxies Σ |up| stand for. Errors: ValueError for unequal widths.
    """
    require(activation.shape[-1] == w_down.shape[-1], f"{activation.shape[-1]} neurons, {w_down.shape[-1]} columns")
    return widen(activation).abs() * widen(w_down).norm(dim=0)


def channel_removal(
    q: Float[Tensor, "n d"], k: Float[Tensor, "n d"], *, scale: float | int | None = None, released: bool = False
) -> Float[Tensor, "d"]:
    """Frobenius norm of the change of a head's causal map when one query–key channel is zero: [d], ≥ 0.

    scale: of the scores, by default 1/√d. released: as the published code has it, the squared norm, the channel's
    rank-one term without the scale. One channel after the other, each [n, n]. Source: arXiv 2402.18815 (PLND), code.
    Errors: ValueError for unequal shapes.
    """
    require_shape("k", k, *q.shape)
    queries, keys = widen(q), widen(k)
    factor = queries.shape[-1] ** -0.5 if scale is None else scale
    future = torch.ones(len(q), len(q), dtype=torch.bool, device=q.device).triu(1)
    scores = (factor * queries @ keys.T).masked_fill(future, -torch.inf)
    pattern, changes = scores.softmax(-1), []
    for query, key in zip(queries.T, keys.T, strict=True):
        without = scores - (1.0 if released else factor) * torch.outer(query, key)
        changes.append((without.softmax(-1) - pattern).square().sum())
    squares = torch.stack(changes)
    return squares if released else squares.sqrt()


def activation_energy(activations: Float[Tensor, "*batch n"]) -> Float[Tensor, "n"]:
    """√Σ act² of each inner dimension over all tokens and texts, ≥ 0: TransAct's score, of z or an MLP's inside.

    Streaming: squares add up over batches. The first token dominates: leave it out beside it.
    Source: arXiv 2407.05690 (TransAct), code.
    """
    return widen(activations).reshape(-1, activations.shape[-1]).square().sum(0).sqrt()


def head_energy(energy: Float[Tensor, "h d"]) -> Float[Tensor, "h"]:
    """TransAct's score of a head from its dimensions' `activation_energy`: mean + (10/d) · maximum, ≥ 0.

    Source: arXiv 2407.05690 (TransAct), code.
    """
    return widen(energy).mean(-1) + 10 / energy.shape[-1] * widen(energy).amax(-1)


def explanation_score(
    responses_for: Float[Tensor, "n"], responses_against: Float[Tensor, "m"], reference: Float[Tensor, "r"]
) -> Float[Tensor, ""]:
    """Mean response to texts for an explanation − mean to texts against it, in σ of the responses to a corpus.

    reference: responses to its n-grams; σ: their standard deviation (divisor r); infinite or NaN where it is 0.
    Source: arXiv 2305.09863 (SASC), code. Errors: ValueError where a set is empty.
    """
    require(min(map(len, (responses_for, responses_against, reference))) > 0, "a set of responses is empty")
    return (widen(responses_for).mean() - widen(responses_against).mean()) / widen(reference).std(correction=0)
