"""States, neurons, weights and edits."""

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
    kept = [metrics.used_weights(weight, inputs, sparsity) for inputs in (inputs_a, inputs_b)]
    share = kept[0].double().mean()
    return {
        "kept_a": kept[0],
        "kept_b": kept[1],
        "iou": metrics.mask_overlap(*kept),
        "iou_of_random_masks": share / (2 - share),
    }


def ima_alignment(image, text):
    pairs, tokens = metrics.pairwise_cosine(image, text), metrics.token_alignment(image, text)
    return {
        "mean_pairwise": pairs.mean,
        "std_pairwise": pairs.std,
        "dot_of_mean_units": pairs.mean,
        "cosine_of_means": metrics.cosine(image.mean(0), text.mean(0)),
        "tokens_max": tokens.largest,
        "tokens_median": tokens.median,
        "tokens_max_mean": tokens.mean_of_largest,
    }


def linear_cka(x, y):
    return {"linear_cka": metrics.linear_cka(x, y), "linear_cka_unbiased": metrics.linear_cka(x, y, unbiased=True)}


def minilm_relations(teacher, student, relation_heads):
    return {
        "kl": metrics.relation_divergence(teacher, student, relation_heads),
        "kl_causal_rows": metrics.relation_divergence(teacher, student, relation_heads, causal=True),
    }


def probe_to_features(prediction, target):
    fit = metrics.feature_fit(prediction, target)
    return {"smooth_l1": fit.smooth_l1, "cosine_flat": fit.flat, "cosine_per_token_mean": fit.token, "r2": fit.r2}


def efficient_probe_pooling(tokens, queries, W_v):
    pooled = metrics.query_pooling(tokens, queries, W_v)
    return {"attention": pooled.attention, "pooled": pooled.state}


def collapse_distance(state_n, state_n_plus_1, chunk, **_):
    distance = metrics.collapse_distance(state_n, state_n_plus_1, chunk)
    return {
        "chunk_max_mean": distance,
        "relative_to_first": distance / distance[0],
        "relative_l2": metrics.relative_distance(state_n, state_n_plus_1),
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
    return {"cases": [{names.get(name, name): value for name, value in found.items()} for found in exits]}


def route_contributions(parts, residual, threshold):
    shares = metrics.route_shares(parts, residual)
    strong = metrics.strong_routes(shares, threshold)
    return {
        "whole": parts.sum(0) + residual,
        "parts": shares.parts,
        "residual": shares.residual,
        "parts_after_threshold": strong.parts,
        "residual_after_threshold": strong.residual,
    }


def fourier_logits(unembedding, output, cut):
    p = len(unembedding)
    logits = unembedding @ output
    coefficients = metrics.number_spectrum(logits)
    low, high = (metrics.filter_components(output, unembedding, cut, keep) for keep in ("low", "high"))
    return {
        "coefficients": coefficients,
        "magnitude_by_component": metrics.component_magnitudes(coefficients),
        "period_by_component": [None, *((p - 1) / k for k in range(1, p // 2 + 1))],
        "low_pass": low,
        "high_pass": high,
        "logits_low_pass": unembedding @ low,
        "logits_high_pass": unembedding @ high,
        "rfft_of_first_p_minus_1": torch.fft.rfft(logits[:-1]).abs() / (p - 1) ** 0.5,
        "dead_row": metrics.number_basis(p)[p - 2].norm(),
    }


def language_share(candidates, prompts):
    decoded = [[[(language, reliable) for language, reliable in layer] for layer in prompt] for prompt in prompts]
    counts = torch.stack([torch.stack([metrics.language_counts(x, candidates) for x in prompt]) for prompt in decoded])
    named = [dict(zip(candidates, row, strict=True)) for row in metrics.pooled_shares(counts)]
    return {
        "mean_of_prompt_shares": [dict(zip(candidates, row, strict=True)) for row in metrics.mean_shares(counts)],
        "pooled": [row | {"n": n} for row, n in zip(named, counts.sum((0, 2)), strict=True)],
    }


def difference_of_means(positive, negative, x, alpha):
    direction = metrics.difference_of_means(positive, negative)
    unit = direction / direction.norm()
    return {
        "direction": direction,
        "unit": unit,
        "added": x + alpha * direction,
        "ablated": metrics.project_out(x, direction),
        "x_along_unit": x @ unit,
        "separation_d_prime": direction @ unit,  # in raw units
        "pooled_std_along_unit": metrics.spread_along(positive, negative, direction),
    }


def lofit(z, A, v, k):
    strength = metrics.edit_strength(A)
    shifted = metrics.edit_heads(z + 1, A, v) - metrics.edit_heads(z, A, v) - (1 + A)
    return {
        "edited": metrics.edit_heads(z, A, v),
        "head_score": strength,
        "top_heads": metrics.ranks(strength).argsort()[:k],
        "l1_penalty": A.abs().sum(),
        "offset_in_residual_is_constant": bool(shifted.abs().max() < 1e-9),
    }


def pasta(scores, v, highlighted_spans, prompt_length, alpha):
    n = torch.arange(len(scores))
    spans = [(n >= start) & (n < end) for start, end in highlighted_spans.tolist()]
    prompt, union = n < prompt_length, torch.stack(spans).any(0)
    steered = metrics.emphasize_keys(scores, union, prompt, alpha).softmax(-1)
    released = scores  # its slip: ln α once per span
    for span in spans:
        released = metrics.emphasize_keys(released, span, prompt, alpha)
    return {
        "pattern_union": steered,
        "z_union": steered @ v,
        "pattern_released_two_spans": released.softmax(-1),
        "pattern_first_span_alone": metrics.emphasize_keys(scores, spans[0], prompt, alpha).softmax(-1),
    }


def composition_components(W_V, W_O, W_Q, W_K):
    q = metrics.composition((W_V, W_O), (W_Q, W_K.mT))
    k = metrics.composition((W_V, W_O), (W_K, W_Q.mT))
    return {
        "singular_values": q.singular,
        "q_composition": q.whole,
        "q_composition_per_component": q.components,
        "k_composition_per_component": k.components,
        "k_composition": k.whole,
    }


def key_interference(keys):
    between = metrics.key_interference(keys)
    units = torch.nn.functional.normalize(keys, dim=-1)
    return {
        "mean_square_cosine": between.square,
        "mean_abs_cosine": between.absolute,
        "random_level_of_mean_square": 1 / keys.shape[-1],
        "from_gram_of_channels": metrics.streamed_interference(units.T @ units, len(keys)),
    }


def layernorm_expressivity(keys, x):
    projected = metrics.remove_mean_direction(x)
    scaled = projected / projected.norm(dim=-1, keepdim=True) * x.shape[-1] ** 0.5
    return {
        "unselectable": metrics.unselectable_keys(keys).nonzero()[:, 0],
        "projected": projected,
        "scaled": scaled,
        "norm_after": scaled.norm(dim=-1),
        "cosine_to_ones": metrics.cosine_to_ones(x),
    }


def icl_regression(omega, context_length, noise_variance, d, kq_block):
    setting = {"context_length": context_length, "noise_variance": noise_variance, "d": d}
    best = metrics.best_output_weights(omega, **setting)
    return {
        "mu_star": best,
        "approximate_loss": metrics.regression_loss(omega, best, **setting),
        "diagonal_share": metrics.diagonal_share(kq_block),
        "diagonal_cv": metrics.diagonal_variation(kq_block),
        "zero_sum": metrics.zero_sum(best),
    }


def spider_ranks(weight, accumulated_gradient):
    ranks = metrics.update_ranks(weight, accumulated_gradient)
    return {
        "weight_rank": ranks.weight,
        "gradient_rank": ranks.gradient,
        "update_weight": ranks.update,
        "share_updated": (ranks.update > 0).double().mean(),
    }
