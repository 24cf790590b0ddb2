"""The structure of attention maps, of one example without padding."""

from __future__ import annotations

import torch
from crosslens.analyses import metrics
from torch import Tensor


def _real(pattern: Tensor) -> Tensor:
    return torch.ones(1, pattern.shape[-1], dtype=torch.bool)


def _uniform(n: int) -> Tensor:
    return metrics.uniform_pattern(metrics.causal_visibility(torch.ones(1, n, dtype=torch.bool))).double()


def attention_indicators(pattern):
    values = _indicators(pattern[None])
    both = {
        f"head_diversity_{name}_std": metrics.head_diversity(pattern[None], _real(pattern), correction=c)[0]
        for name, c in (("sample", 1), ("population", 0))
    }
    uniform = _uniform(pattern.shape[-1])
    null = {name: value[0] for name, value in _indicators(uniform).items()}
    null["head_diversity"] = metrics.head_diversity(uniform, _real(pattern))[0]
    return values | both | {"uniform": null}


def _indicators(pattern: Tensor) -> dict[str, Tensor]:
    mask = _real(pattern)
    nats = metrics.head_entropy(pattern, mask)[0]
    return {
        "entropy_sum": nats * pattern.shape[-1],
        "entropy_mean_per_row": nats,
        "concentration": metrics.concentration(pattern, mask)[0],
        "sink": metrics.first_token_attention(pattern, mask)[0],
        **{f"local_focus_{d}": metrics.local_focus(pattern, mask, d)[0] for d in range(pattern.shape[-1])},
    }


def entropic_overload(pattern):
    heads = metrics.head_entropy(pattern, _real(pattern).expand(len(pattern), -1))
    uniform = metrics.head_entropy(_uniform(pattern.shape[-1]), _real(pattern))[0, 0]
    overloaded = metrics.overloaded_heads(heads)
    return {
        "head_entropy": heads,
        "layer_entropy": heads.mean(1),
        "largest": heads.max(),
        "overloaded": overloaded,
        "share": overloaded.double().mean(),
        "share_middle": metrics.middle_heads(heads).double().mean(),
        "uniform_head_entropy": uniform,
        "share_against_uniform": metrics.overloaded_heads(heads, uniform).double().mean(),
    }


def joma_entropy(pattern, eps):
    queries = _real(pattern)
    return {
        "entropy_of_head_mean": metrics.entropy_of_head_mean(pattern[None], queries, eps=eps)[0],
        "mean_of_head_entropies": metrics.head_entropy(pattern[None], queries)[0].mean(),
    }


def eabf_entropy(last_rows, positions, trained_length):
    second_softmax = last_rows.softmax(-1)[:, 0].mean(0)  # the released script's slip
    n = last_rows.shape[-1]
    return {
        "as_released": metrics.row_entropy(second_softmax),
        "entropy_of_mean_row_head0": metrics.row_entropy(last_rows[:, 0].mean(0)),
        "mean_of_row_entropies": metrics.row_entropy(last_rows).mean(0),
        "uniform": metrics.row_entropy(torch.full((n,), 1 / n, dtype=torch.float64)),
        "q_scale": metrics.length_scale(positions, trained_length),
    }


def arank(pattern):
    n = pattern.shape[-1]
    first = torch.zeros(n, n, dtype=torch.float64)
    first[:, 0] = 1.0
    ranks = metrics.attention_rank(pattern)
    return {
        "rank": ranks,
        "arank": ranks.double().mean(),
        "effective_rank": metrics.effective_rank(metrics.without_diagonal(pattern)),
        "rank_of_uniform": metrics.attention_rank(_uniform(n)[0, 0]),
        "rank_of_first_token_only": metrics.attention_rank(first),
    }


def spectral_gap(causal, bidirectional):
    n, m = len(causal), len(bidirectional)
    behind_first = torch.ones(n, n, dtype=torch.bool).tril()
    behind_first[0] = False
    everything = torch.ones(m, m, dtype=torch.bool)
    return {
        "spectral_gap_causal": metrics.spectral_gap(causal),
        "spectral_gap_bidirectional": metrics.spectral_gap(bidirectional),
        "entropy_rows_causal": metrics.row_entropy(causal),
        "entropy_rows_bidirectional": metrics.row_entropy(bidirectional),
        "log_variance_causal_rows_from_1": metrics.log_attention_variance(causal[None], behind_first)[0],
        "log_variance_bidirectional": metrics.log_attention_variance(bidirectional[None], everything)[0],
        "uniform_bidirectional_gap": metrics.spectral_gap(everything.double() / m),
        "uniform_causal_gap": metrics.spectral_gap(_uniform(n)[0, 0]),
    }


def trivial_patterns(pattern):
    mask, uniform = _real(pattern), _uniform(pattern.shape[-1])
    fit = metrics.fit_trivial(pattern[None], mask)
    return {
        "r2": fit.r2,
        "layer": fit.r2.mean(),
        "coefficients_self_previous_first": fit.coefficients,
        "intercept": fit.intercept,
        "sum_abs_residual": metrics.trivial_residual(pattern[None], mask, fit)[0].abs().sum((1, 2)),
        "r2_of_uniform": metrics.fit_trivial(uniform, mask).r2[0],
    }


def head_jsd(pattern):
    rows = metrics.jensen_shannon(pattern[0], pattern[1])
    return {
        "head_by_head": metrics.head_jensen_shannon(pattern[None], _real(pattern))[0],
        "rows_of_heads_0_and_1": rows,
        "upper_bound": torch.tensor(2.0).double().log(),
    }


def cross_layer_cosine(pattern):
    mean, mask, uniform = pattern.mean(1), _real(pattern), _uniform(pattern.shape[-1])[0, 0]
    pairs = [[(a, b) for b in range(len(pattern))] for a in range(len(pattern))]
    rows = lambda a, b: metrics.row_cosine(mean[a][None, None], mean[b][None, None], mask)[0, 0]  # noqa: E731
    return {
        "of_head_means": [[metrics.map_cosine(mean[a], mean[b]) for a, b in row] for row in pairs],
        "mean_over_equal_heads": [[metrics.map_cosine(pattern[a], pattern[b]).mean() for a, b in row] for row in pairs],
        "mean_row_cosine": [[rows(a, b) for a, b in row] for row in pairs],
        "cosine_with_uniform": [metrics.map_cosine(layer, uniform) for layer in mean],
    }


def rollout(pattern):
    rows, rolled = [], None
    for layer in pattern:
        rolled = metrics.rollout_step(layer, rolled)
        rows.append(rolled[-1])
    return {"rollout": metrics.attention_rollout(iter(pattern)), "last_row_by_layer": rows}


def reachability(pattern, threshold):
    edges = metrics.attention_edges(pattern, threshold)
    fields = metrics.reachable_positions(edges)
    return {
        "field_of_last_token_top_down": [field.nonzero()[:, 0] for field in fields],
        "sizes": fields.sum(1),
        "coverage": fields[-1].double().mean(),
        "edges": edges.sum(),
        "hops_in_union_graph": metrics.hops(edges.any(0)),
    }


def masking_influence(scores, v, grad_z):
    causal = torch.ones_like(scores, dtype=torch.bool).tril()
    attention = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    influence = metrics.masking_influence(attention, v, grad_z)
    return {
        "attention": attention,
        "influence": influence,
        "sum_abs_by_distance": metrics.sums_by_distance(influence),
    }


def elastic_span(alpha, beta, lengths, keys):
    return {
        "kept_keys": [metrics.elastic_span(n, alpha, beta) for n in lengths.tolist()],
        "kept_range_per_query": metrics.elastic_ranges(keys, alpha, beta),
    }


def triangle_score(map, baseline):
    scores = metrics.triangle_scores(map, baseline)
    best = scores.nan_to_num(-torch.inf).argmax()
    return {"score": scores, "best_span": divmod(int(best), len(map)), "best_score": scores.flatten()[best]}


def rope_waveform(head_dim, bases, distances):
    return {"waveform": [metrics.rope_waveform(distances, base, head_dim) for base in bases.tolist()]}


def rope_bases(logits_per_base):
    mixed = metrics.mix_bases(logits_per_base)
    return {"weights": mixed.weights, "mixed_logits": mixed.logits}


def rope_frequency_use(q, k):
    use = metrics.frequency_use(q, k)
    return {"score": use, "rank": metrics.ranks(use)}


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
    quartiles = singular.quantile(torch.tensor([0.25, 0.75]).double())
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
