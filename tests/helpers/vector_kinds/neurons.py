"""Neurons, experts, and what a model could do without."""

from __future__ import annotations

import torch
from crosslens.analyses import metrics


def lape(over_zero, tokens, top_rate, filter_rate, bar_rate):
    probability = over_zero.double() / tokens
    neurons = metrics.specific_neurons(probability, share=top_rate, filter_rate=filter_rate)
    neurons = neurons[(neurons[:, 0] * over_zero.shape[1] + neurons[:, 1]).argsort()]
    groups = metrics.neuron_groups(probability, neurons, bar_rate=bar_rate)
    return {
        "probability": probability,
        "entropy_nats": metrics.group_entropy(probability),
        "filter_value": metrics.smallest_at(probability, filter_rate),
        "bar_value": metrics.smallest_at(probability, bar_rate),
        "passes_filter": metrics.active_neurons(probability, filter_rate),
        "selected": neurons,
        "groups": [neurons[member] for member in groups.T],
    }


def plnd(activation, up, W_down, q, k):
    exact = metrics.neuron_removal(activation, W_down)
    return {
        "ffn_exact_per_token": exact,
        "ffn_exact_sum": exact.sum(0),
        "ffn_code": up.abs().sum(0),  # the released proxy: without gate and W_down
        "qk_code": metrics.channel_removal(q, k, released=True),
        "qk_scaled_norm": metrics.channel_removal(q, k),
    }


def transitional_activations(z, mlp):
    energy = metrics.activation_energy(z.flatten(-2)).reshape(z.shape[-2:])
    return {
        "z_score": energy,
        "mlp_score": metrics.activation_energy(mlp),
        "head_score": metrics.head_energy(energy),
    }


def sasc_score(against, ngrams, **named):
    difference, sigma = named["for"].mean() - against.mean(), ngrams.std(correction=0)
    score = metrics.explanation_score(named["for"], against, ngrams)
    return {"score": difference, "sigma": sigma, "score_in_sigma": score}


def expert_use(router_logits, top_k):
    return metrics.expert_use(router_logits, top_k)._asdict()


def modality_subnets(weight, inputs_a, inputs_b, sparsity):
    used = [metrics.used_weights(weight, inputs, sparsity) for inputs in (inputs_a, inputs_b)]
    share = used[0].double().mean()
    return {
        "kept_a": used[0],
        "kept_b": used[1],
        "iou": metrics.mask_overlap(*used),
        "iou_of_random_masks": share / (2 - share),
    }


def cosine_importance(resid_pre, attn_out, mlp_out, norm_attn):
    middle = resid_pre + attn_out
    return {
        "attention": metrics.cosine_importance(resid_pre, middle),
        "mlp": metrics.cosine_importance(middle, middle + mlp_out),
        "block": metrics.cosine_importance(resid_pre, middle + mlp_out),
        "attention_without_residual": metrics.cosine_importance(norm_attn, attn_out),
        "shuffled_update": metrics.cosine_importance(resid_pre, resid_pre + attn_out.roll(1, 0)),
        "orthogonal_update": metrics.orthogonal_importance(resid_pre, attn_out),
    }


def feature_entropy(features, features_with_attention_masked):
    entropies = [metrics.feature_entropy(x) for x in (features, features_with_attention_masked)]
    return {
        "entropy": entropies[0],
        "entropy_masked": entropies[1],
        "transfer_entropy": metrics.transfer_entropy(features, features_with_attention_masked),
        "difference": entropies[1] - entropies[0],
        "head_entropy_log2_sample_std": metrics.feature_entropy(features, base=2, correction=1),
    }


def exit_label(cases):
    tensors = [
        (torch.tensor(case["clean"]), torch.tensor(case["exited"]), torch.tensor(case["labels"])) for case in cases
    ]
    names = {"allowed": "exit_allowed"}
    exits = [metrics.visual_exit(*case)._asdict() for case in tensors]
    return {"cases": [{names.get(name, name): value for name, value in label.items()} for label in exits]}


def collapse_distance(state_n, state_n_plus_1, chunk, **_):
    distance = metrics.collapse_distance(state_n, state_n_plus_1, chunk)
    return {
        "chunk_max_mean": distance,
        "relative_to_first": distance / distance[0],
        "relative_l2": metrics.relative_distance(state_n, state_n_plus_1),
    }


def spider_ranks(weight, accumulated_gradient):
    ranks = metrics.update_ranks(weight, accumulated_gradient)
    return {
        "weight_rank": ranks.weight,
        "gradient_rank": ranks.gradient,
        "update_weight": ranks.update,
        "share_updated": (ranks.update > 0).double().mean(),
    }
