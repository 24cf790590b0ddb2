"""Circuits of edges as pure functions: a port of the official algorithms, pruning by hand, areas and AUROC."""

import heapq
import math

import pytest
import torch
from crosslens.analyses import metrics

from ...helpers.patterns import generator

LAYERS, HEADS = 3, 2


def graph(layers=LAYERS, heads=HEADS):
    """possible and owners of a sequential model: q, k, v of every head, MLP; the output last."""
    writers = [("input", -1, -1)]
    readers = []
    for layer in range(layers):
        writers += [("head", layer, h) for h in range(heads)] + [("mlp", layer, -1)]
        readers += [(part, layer, h) for part in "qkv" for h in range(heads)] + [("mlp", layer, -1)]
    readers.append(("final", layers, -1))

    def hears(reader, writer):
        return writer[1] < reader[1] or (reader[0] == "mlp" and writer[0] == "head" and writer[1] == reader[1])

    def owns(reader, writer):
        kind = "head" if reader[0] in "qkv" else reader[0]
        return (kind, *reader[1:]) == writer

    possible = torch.tensor([[hears(r, w) for w in writers] for r in readers])
    return possible, torch.tensor([[owns(r, w) for w in writers] for r in readers])


def scores_of(seed, possible):
    numbers = torch.randn(possible.shape, generator=generator(seed), dtype=torch.float64)
    return numbers.masked_fill(~possible, math.nan)


def official_prune(in_graph, forward_to_backward):
    """hannamw/EAP-IG graph.py `prune`, on [writer, reader] matrices."""
    nodes = torch.ones(in_graph.shape[0], dtype=torch.bool)
    while True:
        outgoing = in_graph.any(1)
        ingoing = (forward_to_backward.float() @ in_graph.any(0).float()) > 0
        ingoing[0] = True
        new_nodes = outgoing & ingoing
        backward = new_nodes.float() @ forward_to_backward.float()
        backward[-1] = 1
        new = in_graph & ((new_nodes.float()[:, None] * backward[None]) > 0)
        if torch.equal(new, in_graph) and torch.equal(new_nodes, nodes):
            return in_graph
        in_graph, nodes = new, new_nodes


def official_greedy(scores, possible, forward_to_backward, count, absolute):
    """`apply_greedy`, on [writer, reader] matrices: lists merged from the output on."""
    size = scores.abs() if absolute else scores
    kept, inside = torch.zeros_like(possible), torch.zeros(len(scores), dtype=torch.bool)

    def edges(reader):
        return sorted(((w, reader) for w in range(len(scores)) if possible[w, reader]), key=lambda e: -float(size[e]))

    merged = iter(edges(scores.shape[1] - 1))
    for _ in range(count):
        edge = next(merged)
        kept[edge] = True
        if not inside[edge[0]] and edge[0] != 0:
            inside[edge[0]] = True
            more = sorted((e for r in forward_to_backward[edge[0]].nonzero()[:, 0].tolist() for e in edges(r)),
                          key=lambda e: -float(size[e]))  # fmt: skip
            merged = heapq.merge(merged, more, key=lambda e: -float(size[e]))
    return kept


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("count", [0, 1, 5, 20, 60])
def test_top_and_greedy_equal_the_official_algorithms(count, absolute):
    possible, owners = graph()
    for seed in range(5):
        scores = scores_of(seed, possible)
        size = (scores.abs() if absolute else scores).nan_to_num(nan=-math.inf)
        chosen = torch.zeros(scores.numel(), dtype=torch.bool)
        chosen[size.flatten().argsort(descending=True)[:count]] = True
        expected = official_prune(chosen.view_as(scores).T.clone(), owners.T).T
        assert torch.equal(metrics.top_edges(scores, owners, count, absolute), expected)
        greedy = official_greedy(scores.T, possible.T, owners.T, count, absolute)
        assert torch.equal(metrics.greedy_edges(scores, owners, count, absolute), official_prune(greedy, owners.T).T)


def test_pruning_leaves_paths_from_the_input_to_the_output_alone():
    possible, owners = graph()
    kept = torch.zeros_like(possible)
    path = [(0, 0), (len(possible) - 1, 1)]  # input → q of 0.0, 0.0 → output
    for edge in path:
        kept[edge] = True
    dead = kept.clone()
    dead[6, 0] = True  # input → MLP 0, which nobody hears
    dead[len(possible) - 1, 6] = True  # MLP 1, which hears nothing, → output
    assert torch.equal(metrics.pruned_edges(dead, owners), kept)
    assert torch.equal(metrics.pruned_edges(possible, owners), possible)
    assert not metrics.pruned_edges(torch.zeros_like(possible), owners).any()


def test_nodes_keep_all_their_edges_and_those_without_a_score_stay():
    possible, owners = graph()
    scores = torch.arange(possible.shape[1], dtype=torch.float64)
    scores[0] = math.nan  # the input
    kept = metrics.top_nodes(scores, possible, owners, 1)
    last = possible.shape[1] - 1
    assert torch.equal(kept.any(0).nonzero()[:, 0], torch.tensor([0, last]))
    assert kept[-1].nonzero()[:, 0].tolist() == [0, last]
    everything = metrics.top_nodes(scores, possible, owners, last)
    assert torch.equal(everything, possible)


def test_all_edges_none_and_too_many():
    possible, owners = graph()
    scores = scores_of(0, possible)
    assert torch.equal(metrics.top_edges(scores, owners, int(possible.sum())), possible)
    assert not metrics.top_edges(scores, owners, 0).any()
    for wrong in (metrics.top_edges, metrics.greedy_edges):
        with pytest.raises(ValueError, match="edges of"):
            wrong(scores, owners, int(possible.sum()) + 1)


def test_auroc_is_one_for_a_found_circuit_and_a_half_by_chance():
    possible, _ = graph(6, 4)
    scores = scores_of(1, possible)
    truth = scores.abs().nan_to_num() > 1
    assert metrics.edge_auroc(scores, truth) == 1.0
    mixed = scores_of(2, possible)
    assert metrics.edge_auroc(mixed, truth) == pytest.approx(0.5, abs=0.06)
    assert math.isnan(metrics.edge_auroc(scores, torch.zeros_like(truth)))
