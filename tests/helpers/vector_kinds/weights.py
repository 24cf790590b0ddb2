"""Weights and keys."""

from __future__ import annotations

import torch
from crosslens.analyses import metrics


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


def rank_and_symmetry(weight, W_Q, W_K):
    return {
        "stable_rank": metrics.stable_rank(weight),
        "effective_rank_entropy": metrics.effective_rank(weight),
        "participation_ratio": metrics.participation_ratio(weight),
        "symmetric_share_of_qk": metrics.symmetric_share(W_Q, W_K),
    }


def spectrum_snr(weight):
    singular, edge = torch.linalg.svdvals(weight), metrics.noise_edge(weight)
    threshold = metrics.noise_threshold(weight)
    quartiles = singular.quantile(torch.tensor([0.25, 0.75]).to(singular))
    return {
        "singular_values": singular,
        "sigma": (quartiles[1] - quartiles[0]) / 1.349,
        "threshold": threshold,
        "snr": metrics.spectrum_snr(weight),
        "mp_edge_from_entries": edge,
        "signal_count": (singular > threshold).sum(),
        "above_mp_edge": (singular > edge).sum(),
        "snr_of_ten_times_the_weight": metrics.spectrum_snr(10 * weight),
    }
