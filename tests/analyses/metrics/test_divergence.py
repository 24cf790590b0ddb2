"""Laws of vision-aware heads."""

import math
import statistics

import pytest
import torch
from crosslens.analyses import metrics
from hypothesis import given
from hypothesis import strategies as st

from ...helpers.patterns import BAD_SHAPE, generator, quick, seeds


def test_head_divergence_by_hand():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0], [1.0, 0.0]])
    close = torch.testing.assert_close
    close(metrics.head_divergence(a, b), torch.tensor([5.0, math.sqrt(5), 0.0, 1.0]))
    close(metrics.head_divergence(a, b, kind="relative"), torch.tensor([2.0, math.sqrt(5) / 1.5, 0.0, 2.0]))
    close(metrics.head_divergence(a, b, kind="cosine"), torch.tensor([1.0, 1.0, 0.0, 1.0]))


@pytest.mark.parametrize("kind", ["l2", "relative", "cosine"])
def test_equal_outputs_do_not_diverge_at_all(kind):
    z = torch.randn(2, 5, 3, 8, generator=generator(0))
    assert (metrics.head_divergence(z, z, kind=kind) == 0).all()


@quick
@given(seeds, st.floats(0.01, 100))
def test_divergence_laws(seed, scale):
    a, b = torch.randn(2, 4, 6, 8, generator=generator(seed))
    for kind in ("l2", "relative", "cosine"):
        value = metrics.head_divergence(a, b, kind=kind)
        torch.testing.assert_close(value, metrics.head_divergence(b, a, kind=kind))
        order = torch.randperm(6, generator=generator(seed))
        permuted = metrics.head_divergence(a[:, order], b[:, order], kind=kind)
        torch.testing.assert_close(permuted, value[:, order])
        factor = scale if kind == "l2" else 1.0
        scaled = metrics.head_divergence(scale * a, scale * b, kind=kind)
        torch.testing.assert_close(scaled, factor * value, rtol=1e-4, atol=1e-5)
        assert (value >= 0).all()
        assert kind == "l2" or (value <= 2).all()
    one_sided = metrics.head_divergence(scale * a, b, kind="cosine")
    torch.testing.assert_close(one_sided, metrics.head_divergence(a, b, kind="cosine"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one_sided, 1 - torch.cosine_similarity(a, b, dim=-1), rtol=1e-4, atol=1e-5)


def test_head_divergence_refuses_nonsense():
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="unknown kind"):
        metrics.head_divergence(z, z, kind="l1")
    with pytest.raises(BAD_SHAPE):
        metrics.head_divergence(z, torch.zeros(2, 4))


def test_total_divergence_sums_the_largest_heads_of_every_layer():
    vhd = torch.tensor([[1.0, 5.0, 3.0], [2.0, 0.0, 7.0]])
    assert metrics.total_divergence(vhd, k=2).item() == 5 + 3 + 7 + 2
    assert metrics.total_divergence(vhd, k=3).item() == vhd.sum()
    assert metrics.total_divergence(vhd[:, [2, 0, 1]], k=1).item() == 12
    assert metrics.total_divergence(vhd.expand(4, 5, 2, 3), k=1).shape == (4, 5)
    for k in (0, 4):
        with pytest.raises(ValueError, match="number of heads"):
            metrics.total_divergence(vhd, k=k)


def test_reinforced_heads_are_above_the_median_without_outliers():
    vhd = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 60.0])
    calm = torch.ones(6)
    assert metrics.reinforced_heads(vhd, calm).tolist() == [False, False, False, True, True, True]
    loud = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 30.0])
    # The outlier becomes 0; the median of 0 1 2 3 4 5 lies between 2 and 3.
    assert metrics.reinforced_heads(vhd, loud).tolist() == [False, False, True, True, True, False]
    stacked = metrics.reinforced_heads(torch.stack([vhd, vhd]), torch.stack([calm, loud]))
    assert stacked.sum(1).tolist() == [3, 3]
    assert not stacked[1, 5]


@pytest.mark.parametrize("seed", range(20))
def test_reinforced_heads_against_a_loop(seed):
    # Related and of moderate spread, so that σ's denominator and the square decide some cases.
    both = torch.rand(2, 6, generator=generator(seed)) + torch.rand(6, generator=generator(seed + 100))
    vhd, norm = both.tolist()
    energy = [x * x for x in norm]
    cuts = [statistics.mean(x) + statistics.pstdev(x) for x in (vhd, energy)]
    kept = [0.0 if v > cuts[0] and e > cuts[1] else v for v, e in zip(vhd, energy, strict=True)]
    expected = [v > statistics.median(kept) for v in kept]
    assert metrics.reinforced_heads(torch.tensor(vhd), torch.tensor(norm)).tolist() == expected


@quick
@given(seeds, st.integers(2, 9))
def test_reinforced_heads_permute_and_are_at_most_half(seed, heads):
    rng = generator(seed)
    vhd, norm = torch.rand(4, heads, generator=rng), torch.rand(4, heads, generator=rng)
    order = torch.randperm(heads, generator=rng)
    found = metrics.reinforced_heads(vhd, norm)
    assert torch.equal(metrics.reinforced_heads(vhd[:, order], norm[:, order]), found[:, order])
    assert (found.sum(-1) <= heads // 2).all()


def test_vhr_by_hand_with_and_without_the_filter():
    vhd, norms = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([1.0, 1.0, 1.0, 9.0])
    assert metrics.reinforced_heads(vhd, norms).nonzero()[:, 0].tolist() == [1, 2]
    assert metrics.reinforced_heads(vhd, norms, filter=False).nonzero()[:, 0].tolist() == [2, 3]
