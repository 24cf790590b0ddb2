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
    mean, mask, uniform = pattern.mean(1), _real(pattern), _uniform(pattern.shape[-1])[0, 0].to(pattern.dtype)
    pairs = [[(a, b) for b in range(len(pattern))] for a in range(len(pattern))]
    rows = mean[:, None, None]
    return {
        "of_head_means": [[metrics.map_cosine(mean[a], mean[b]) for a, b in row] for row in pairs],
        "mean_over_equal_heads": [[metrics.map_cosine(pattern[a], pattern[b]).mean() for a, b in row] for row in pairs],
        "mean_row_cosine": [[metrics.row_cosine(rows[a], rows[b], mask)[0, 0] for a, b in row] for row in pairs],
        "cosine_with_uniform": [metrics.map_cosine(layer, uniform) for layer in mean],
    }
