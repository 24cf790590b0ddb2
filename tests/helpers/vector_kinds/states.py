"""Alignment of states, probes, and groups of the vocabulary."""

from __future__ import annotations

import torch
from crosslens.analyses import metrics


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
