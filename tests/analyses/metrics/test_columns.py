"""Laws of what keys receive: loops, padding, windows."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from torch import Tensor

from ...helpers.patterns import BAD_SHAPE, LENGTHS, SIZE, assert_lists_close, chosen_columns, ragged, real_part


def brute_column_means(pattern: Tensor, mask: Tensor, min_queries: int = 1) -> Tensor:
    out = torch.full((pattern.shape[0], pattern.shape[1], pattern.shape[3]), math.nan)
    for b, h, k in ((b, h, k) for b in range(out.shape[0]) for h in range(out.shape[1]) for k in range(SIZE)):
        seen = [float(pattern[b, h, q, k]) for q in range(SIZE) if mask[b, q] and mask[b, k] and q >= k]
        if len(seen) >= min_queries:
            out[b, h, k] = sum(seen) / len(seen)
    return out


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0.0, 0.5, math.nan])
def test_column_attention_equals_loops_whatever_padding_rows_hold(side, pad):
    pattern, mask = ragged(side, pad=pad)
    found = metrics.column_attention(pattern, mask)
    torch.testing.assert_close(found, brute_column_means(pattern, mask), equal_nan=True)


def test_column_attention_by_hand():
    pattern = torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert metrics.column_attention(pattern, mask).tolist() == [[[0.625, 0.75]]]


def test_column_attention_does_not_depend_on_padding_side_or_batch():
    (left, left_mask), (right, right_mask) = ragged("left"), ragged("right")
    a = real_part(metrics.column_attention(left, left_mask), left_mask, 2)
    b = real_part(metrics.column_attention(right, right_mask), right_mask, 2)
    assert_lists_close(a, b)
    alone = [metrics.column_attention(left[i : i + 1], left_mask[i : i + 1])[0] for i in range(len(LENGTHS))]
    assert_lists_close(alone, list(metrics.column_attention(left, left_mask)))


def test_column_attention_in_a_sliding_window_and_on_chosen_rows():
    _, mask = ragged("left")
    place = torch.arange(SIZE)
    visible = metrics.causal_visibility(mask) & (place[:, None] - place < 3)
    uniform = (visible / visible.sum(-1, keepdim=True).clamp_min(1))[:, None]
    by_window = metrics.column_attention(uniform, mask, visible)
    assert by_window[0, 0, 3].item() == pytest.approx(1 / 3)
    rows = [4, 9]
    found = metrics.column_attention(uniform[:, :, rows], mask, visible[:, rows])
    assert found[0, 0, 3].item() == pytest.approx(1 / 3)
    assert found[0, 0, 5].isnan()
    with pytest.raises(ValueError, match="visible"):
        metrics.column_attention(uniform[:, :, rows], mask)


def test_attention_share_against_a_loop():
    pattern, mask = ragged("left", pad=0.0)
    columns = chosen_columns(mask, 0, 2)
    found = metrics.attention_share(pattern, columns)
    torch.testing.assert_close(found, (pattern * columns[:, None, None]).sum(-1))
    both = found + metrics.attention_share(pattern, mask & ~columns)
    torch.testing.assert_close(both, mask[:, None].float().expand_as(both))
    assert (metrics.attention_share(pattern, torch.zeros_like(mask)) == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("min_queries", [1, 4])
def test_hidden_sinks_equal_loops(side, min_queries):
    pattern, mask = ragged(side)
    means = brute_column_means(pattern, mask, min_queries)
    expected = (means > 0.2) & ~metrics.first_real(mask)[:, None]
    found = metrics.hidden_sinks(pattern, mask, threshold=0.2, min_queries=min_queries)
    assert torch.equal(found, expected)
    assert found.any()


def test_hidden_sinks_by_default_ignore_columns_that_few_queries_see():
    pattern = torch.eye(SIZE).expand(1, 1, SIZE, SIZE).clone()
    pattern[:, :, 2:, :] = 0.0
    pattern[:, :, 2:, 1] = 1.0
    mask = torch.ones(1, SIZE, dtype=torch.bool)
    assert metrics.hidden_sinks(pattern, mask, threshold=0.1).nonzero().tolist() == [[0, 0, 1]]
    own = torch.eye(SIZE).expand(1, 1, SIZE, SIZE)
    assert not metrics.hidden_sinks(own, mask, threshold=0.5).any()
    assert metrics.hidden_sinks(own, mask, threshold=0.5, min_queries=1)[0, 0].tolist() == [False] * 11 + [True]


def test_hidden_sinks_take_a_threshold_per_example_and_follow_heads():
    pattern, mask = ragged("left")
    limits = 2 / mask.sum(1)
    found = metrics.hidden_sinks(pattern, mask, threshold=limits, min_queries=2)
    for i, limit in enumerate(limits.tolist()):
        alone = metrics.hidden_sinks(pattern[i : i + 1], mask[i : i + 1], threshold=limit, min_queries=2)
        assert torch.equal(found[i : i + 1], alone)
    order = [2, 0, 1]
    permuted = metrics.hidden_sinks(pattern[:, order], mask, threshold=limits, min_queries=2)
    assert torch.equal(permuted, found[:, order])


def test_hidden_sinks_refuse_nonsense():
    pattern, mask = ragged("left")
    for options in ({"threshold": -1.0}, {"threshold": 0.1, "min_queries": 0}):
        with pytest.raises(ValueError, match=r"negative|min_queries"):
            metrics.hidden_sinks(pattern, mask, **options)
    with pytest.raises(BAD_SHAPE):
        metrics.hidden_sinks(pattern, mask[:, 1:], threshold=0.1)
    with pytest.raises(BAD_SHAPE):
        metrics.hidden_sinks(pattern, mask.long(), threshold=0.1)
