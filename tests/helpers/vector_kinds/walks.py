"""Paths over layers, spans and rotary positions."""

from __future__ import annotations

import torch
from crosslens.analyses import metrics


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
        "edges": edges.any(0).sum() + len(fields[0]),  # of the union graph, the residual's among them
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
