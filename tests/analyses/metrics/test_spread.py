"""Laws of the entropy of attention."""

import math

import pytest
import torch
from crosslens.analyses import metrics

from ...helpers.patterns import BAD_SHAPE, SIZE, generator, ragged


@pytest.mark.parametrize("side", ["left", "right"])
def test_entropy_is_bounded_by_the_keys_in_view(side):
    pattern, mask = ragged(side, pad=0.0)
    value = metrics.attention_entropy(pattern)
    torch.testing.assert_close(value, torch.special.entr(pattern).sum(-1))
    count = mask.cumsum(1)[:, None].expand_as(value)
    assert (value <= count.log().clamp_min(0.0) + 1e-5).all()
    share = metrics.attention_entropy(pattern, normalized=True)
    assert ((share >= 0) & (share <= 1)).all()
    more = (count > 1) & mask[:, None]
    torch.testing.assert_close(share[more], (value / count.log())[more])
    assert (share[~more] == 0).all()
    torch.testing.assert_close(
        metrics.attention_entropy(pattern, normalized=True, visible=metrics.causal_visibility(mask)), share
    )


def test_uniform_rows_have_entropy_one():
    mask = ragged("left")[1]
    visible = metrics.causal_visibility(mask)
    uniform = (visible / visible.sum(-1, keepdim=True).clamp_min(1))[:, None]
    share = metrics.attention_entropy(uniform, normalized=True)
    torch.testing.assert_close(share[:, 0], (visible.sum(-1) > 1).float())
    half = metrics.attention_entropy(uniform.half(), normalized=True)
    assert (half <= 1).all()
    torch.testing.assert_close(half, share, atol=1e-3, rtol=0)


def test_entropy_is_zero_on_a_single_key_and_permutes():
    one_hot = torch.eye(5).expand(1, 2, 5, 5)
    assert (metrics.attention_entropy(one_hot) == 0).all()
    pattern, _ = ragged("left", pad=0.0)
    order = torch.randperm(SIZE, generator=generator(0))
    torch.testing.assert_close(metrics.attention_entropy(pattern[..., order]), metrics.attention_entropy(pattern))


def test_low_precision_patterns_are_reduced_in_float32():
    n = 4096  # a running sum of 1/n in float16 or bfloat16 would stop far below 1
    pattern = torch.full((1, 1, 2, n), 1 / n)
    everything = torch.ones(1, n, dtype=torch.bool)
    visible = torch.ones(1, 2, n, dtype=torch.bool)
    for dtype in (torch.float16, torch.bfloat16):
        low = pattern.to(dtype)
        share = metrics.attention_share(low, everything)
        assert share.dtype == torch.float32
        torch.testing.assert_close(share, torch.ones(1, 1, 2))
        torch.testing.assert_close(metrics.attention_entropy(low), torch.full((1, 1, 2), math.log(n)))
        assert metrics.column_attention(low, everything, visible).dtype == torch.float32
    assert metrics.attention_share(pattern.double(), everything).dtype == torch.float64


def test_patterns_of_a_wrong_shape_are_refused():
    pattern, mask = ragged("left")
    for bad in (pattern[0], pattern[:0]):
        with pytest.raises(BAD_SHAPE):
            metrics.attention_entropy(bad)
    with pytest.raises(BAD_SHAPE):
        metrics.attention_share(pattern, mask[:1])
    with pytest.raises(BAD_SHAPE):
        metrics.nonsink_ratio(pattern, mask, mask.int())
    with pytest.raises(BAD_SHAPE):
        metrics.calibrate_sinks(pattern, mask[:, None], 0.4)
