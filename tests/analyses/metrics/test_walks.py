"""Laws of paths over layers, of spans and of rotary positions."""

import itertools
import math

import pytest
import torch
from crosslens.analyses import metrics
from hypothesis import given
from hypothesis import strategies as st

from ...helpers.patterns import generator, quick, seeds


def causal_patterns(seed: int, *shape: int) -> torch.Tensor:
    scores = 2 * torch.randn(*shape, generator=generator(seed), dtype=torch.float64)
    future = torch.ones(shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def test_rollout_equals_the_sum_over_paths():
    patterns = causal_patterns(0, 3, 2, 4, 4)
    steps = [(0.5 * (layer.mean(0) + torch.eye(4))) for layer in patterns]
    slow = torch.zeros(4, 4, dtype=torch.float64)
    for path in itertools.product(range(4), repeat=4):
        slow[path[3], path[0]] += steps[0][path[1], path[0]] * steps[1][path[2], path[1]] * steps[2][path[3], path[2]]
    rolled = metrics.attention_rollout(layer for layer in patterns)
    torch.testing.assert_close(rolled, slow)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="no layers"):
        metrics.attention_rollout([])


def test_heads_on_themselves_roll_out_to_the_identity():
    torch.testing.assert_close(metrics.attention_rollout([torch.eye(5).expand(2, 5, 5)] * 4), torch.eye(5))


def test_previous_token_heads_reach_one_position_further_each_layer():
    n = 6
    previous = torch.eye(n).roll(-1, 1).tril(-1)
    previous[0, 0] = 1.0
    edges = metrics.attention_edges(previous.expand(4, 1, n, n), 0.5)
    assert edges.sum().item() == 4 * (n - 1)
    fields = metrics.reachable_positions(edges)
    assert fields.sum(1).tolist() == [2, 3, 4, 5]
    assert metrics.hops(edges.any(0)).tolist() == [5, 4, 3, 2, 1, 0]


@quick
@given(seeds, st.floats(0.05, 0.9))
def test_reachability_equals_boolean_matrix_powers(seed, threshold):
    patterns = causal_patterns(seed, 3, 2, 7, 7)
    edges = metrics.attention_edges(patterns, threshold)
    fields = metrics.reachable_positions(edges)
    reach = torch.eye(7)
    for layer, field in zip(edges.flip(0), fields, strict=True):
        reach = reach @ (layer.float() + torch.eye(7))
        assert torch.equal(reach[-1] > 0, field)
    steps = metrics.hops(edges.any(0))
    assert steps[-1] == 0
    walk = edges.any(0).float()
    for k in range(6):
        power = torch.linalg.matrix_power(walk + torch.eye(7), 6)[-1, k] > 0
        assert bool(steps[k] >= 0) == bool(power)


def test_masking_influence_is_the_gradient_times_the_exact_change():
    attention, rng = causal_patterns(1, 2, 5, 5), generator(2)
    v, grad_z = (torch.randn(2, 5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    influence = metrics.masking_influence(attention, v, grad_z)
    for h, q, k in itertools.product(range(2), range(1, 5), range(5)):
        masked = attention[h, q].clone()
        masked[k] = 0.0
        change = (masked / masked.sum()) @ v[h] - attention[h, q] @ v[h]
        assert influence[h, q, k].item() == pytest.approx(float(grad_z[h, q] @ change), abs=1e-9)
    torch.testing.assert_close(influence[:, 0, 0], -(grad_z[:, 0] * v[:, 0]).sum(-1))


def test_masking_influence_comes_in_blocks_of_rows():
    attention, rng = causal_patterns(3, 1, 6, 6), generator(4)
    v, grad_z = (torch.randn(1, 6, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    block = metrics.masking_influence(attention[:, 2:4], v, grad_z[:, 2:4])
    torch.testing.assert_close(block, metrics.masking_influence(attention, v, grad_z)[:, 2:4])


def test_sums_by_distance_add_up():
    maps = torch.randn(3, 6, 6, generator=generator(5))
    by_distance = metrics.sums_by_distance(maps)
    torch.testing.assert_close(by_distance.sum(-1), maps.tril().abs().sum((1, 2)))
    torch.testing.assert_close(by_distance[:, 5], maps[:, 5, 0].abs())


@quick
@given(st.integers(1, 200), st.integers(0, 64), st.floats(0, 1))
def test_elastic_spans_are_inside_the_text(length, alpha, beta):
    span = metrics.elastic_span(length, alpha, beta)
    assert 1 <= span <= length
    ranges = metrics.elastic_ranges(length, alpha, beta)
    assert ranges[-1].tolist() == [length - span, length]
    assert (ranges[:, 1] - ranges[:, 0]).min() >= 1
    assert metrics.elastic_span(length, alpha, 1.0) == length
    assert metrics.elastic_span(length, alpha, 0.0) == min(length, max(1, alpha))


def test_triangle_scores_equal_double_sums():
    maps = causal_patterns(6, 2, 6, 6)
    scores = metrics.triangle_scores(maps, 0.1)
    for x, y in itertools.product(range(6), repeat=2):
        inside = [(q, k) for q in range(x, y + 1) for k in range(x, q + 1)]
        expected = sum(float(maps[1, q, k]) - 0.1 for q, k in inside) if x <= y else math.nan
        assert scores[1, x, y].item() == pytest.approx(expected, nan_ok=True)


def test_waveform_is_the_score_after_rotation():
    n, d, base = 7, 8, 500.0
    frequencies = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    turns = torch.polar(torch.ones(n, d // 2, dtype=torch.float64), torch.arange(n)[:, None] * frequencies)
    rotated = turns * complex(1, 1)  # an all-ones vector as pairs
    scores = (rotated[:1].conj() * rotated).real.sum(-1) / math.sqrt(d)
    torch.testing.assert_close(metrics.rope_waveform(torch.arange(n), base, d), scores)
    with pytest.raises(ValueError, match="even"):
        metrics.rope_waveform(torch.arange(n), base, 7)


def test_scores_by_distance_are_those_of_equal_queries_and_keys():
    """Where all queries and all keys are alike the words say nothing: what is left is the score of every real pair."""
    rng = torch.Generator().manual_seed(0)
    n, heads, groups, d = 9, 4, 2, 8
    q, k = (torch.randn(size, d, generator=rng, dtype=torch.float64) for size in (heads, groups))
    frequencies = 50.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)

    def turned(x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(n, dtype=torch.float64)[:, None, None] * frequencies
        first, second = x.unflatten(-1, (2, d // 2)).unbind(-2)
        parts = first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()
        return torch.cat(parts, -1)

    scores = torch.einsum("qhd,khd->hqk", turned(q), turned(k).repeat_interleave(heads // groups, 1)) / math.sqrt(d)
    found = metrics.score_by_distance(q.expand(n, -1, -1), k.expand(n, -1, -1), frequencies, torch.arange(n))
    for row in range(n):
        torch.testing.assert_close(found[:, : row + 1], scores[:, row, : row + 1].flip(-1))
    ones = torch.ones(3, 1, d)
    waveform = metrics.rope_waveform(torch.arange(n), 50.0, d)
    torch.testing.assert_close(
        metrics.score_by_distance(ones, ones, frequencies, torch.arange(n))[0].double(), waveform, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="frequencies"):
        metrics.score_by_distance(q[None], k[None], frequencies[1:], torch.arange(n))


def test_mixing_bases_of_one_or_equal_forwards_changes_nothing():
    logits = torch.randn(5, generator=generator(7))
    torch.testing.assert_close(metrics.mix_bases(logits[None]).logits, logits)
    mixed = metrics.mix_bases(logits.expand(3, 5))
    torch.testing.assert_close(mixed.logits, logits)
    torch.testing.assert_close(mixed.weights, torch.full((3,), 1 / 3))


def test_frequency_use_does_not_depend_on_the_rotation_and_finds_a_planted_pair():
    rng = generator(8)
    q, k = (0.1 * torch.randn(9, heads, 8, generator=rng) for heads in (4, 2))
    for x in (q[:, 2:], k[:, 1:]):
        x[..., 3] += 5.0
    use = metrics.frequency_use(q, k)
    assert metrics.ranks(use)[1].argmin().item() == 3
    angle = torch.rand(9, 1, 4, generator=rng)
    turned = [
        torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
        for a, b in (x.chunk(2, -1) for x in (q, k))
    ]
    torch.testing.assert_close(metrics.frequency_use(*turned), use)
    torch.testing.assert_close(metrics.frequency_use(q[:, :2], k[:, :1]), use[:1])


def test_ranks_count_larger_entries():
    assert metrics.ranks(torch.tensor([[3.0, 9.0, 5.0], [1.0, 1.0, 2.0]])).tolist() == [[2, 0, 1], [1, 2, 0]]
