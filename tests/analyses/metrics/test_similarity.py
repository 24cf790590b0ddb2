"""Laws of likeness: bounds, symmetry, identities against the slow way, chance levels."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from hypothesis import given
from torch import Tensor

from ...helpers.patterns import BAD_SHAPE, generator, quick, ragged, seeds


def states(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@quick
@given(seeds)
def test_jensen_shannon_laws(seed):
    p, r = states(seed, 2, 5, 7).mul(3).softmax(-1)
    value = metrics.jensen_shannon(p, r)
    torch.testing.assert_close(value, metrics.jensen_shannon(r, p))
    assert ((value > 0) & (value < math.log(2))).all()
    middle = (p + r) / 2
    slow = ((p * (p / middle).log()).sum(-1) + (r * (r / middle).log()).sum(-1)) / 2
    torch.testing.assert_close(value, slow)
    assert metrics.jensen_shannon(p, p).abs().max() < 1e-12


def test_jensen_shannon_of_disjoint_distributions_is_its_bound():
    assert metrics.jensen_shannon(torch.eye(3)[0], torch.eye(3)[1]).item() == pytest.approx(math.log(2))


def test_head_jensen_shannon_equals_the_pairs_and_does_not_read_padding():
    (left, left_mask), (right, right_mask) = ragged("left"), ragged("right", pad=math.nan)
    value = metrics.head_jensen_shannon(right, right_mask)
    torch.testing.assert_close(value, metrics.head_jensen_shannon(left, left_mask))
    torch.testing.assert_close(value, value.mT)
    assert value.diagonal(dim1=1, dim2=2).abs().max() < 1e-6
    real = right[0, :, :12]
    torch.testing.assert_close(value[0, 0, 2], metrics.jensen_shannon(real[0], real[2]).mean())


def test_cosines_of_maps_are_scale_free_and_one_for_equal_maps():
    a, b = states(0, 2, 3, 6, 6).softmax(-1)
    mask = torch.ones(1, 6, dtype=torch.bool)
    torch.testing.assert_close(metrics.map_cosine(a, 5 * a), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(metrics.map_cosine(a, 5 * b), metrics.map_cosine(b, a))
    torch.testing.assert_close(metrics.row_cosine(a[None], 5 * a[None], mask), torch.ones(1, 3, dtype=torch.float64))
    slow = torch.cosine_similarity(a, b, dim=-1).mean(-1)
    torch.testing.assert_close(metrics.row_cosine(a[None], b[None], mask)[0], slow)
    assert metrics.cosine(torch.zeros(3), torch.ones(3)).isnan()


def test_correlation_is_that_of_numpy_and_blind_to_scale():
    x, y = states(1, 2, 4, 9)
    slow = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(x, y, strict=True)])
    torch.testing.assert_close(metrics.correlation(x, y), slow)
    torch.testing.assert_close(metrics.correlation(2 * x + 1, 3 - y), -slow)
    assert metrics.correlation(torch.ones(4), torch.arange(4.0)).isnan()
    with pytest.raises(BAD_SHAPE):
        metrics.correlation(x, y[:, :5])


def test_cka_is_one_for_rotated_states_and_blind_to_shift_and_scale():
    x, y = states(2, 12, 5), states(3, 12, 7)
    turned = 3 * x @ torch.linalg.qr(states(4, 5, 5)).Q + 10
    for unbiased in (False, True):
        assert metrics.linear_cka(x, turned, unbiased=unbiased).item() == pytest.approx(1.0)
        torch.testing.assert_close(
            metrics.linear_cka(turned, y, unbiased=unbiased), metrics.linear_cka(x, y, unbiased=unbiased)
        )


def test_plain_cka_is_inflated_for_few_examples_and_the_unbiased_one_is_not():
    pairs = [(states(seed, 12, 60), states(seed + 500, 12, 60)) for seed in range(200)]
    plain = torch.stack([metrics.linear_cka(x, y) for x, y in pairs])
    unbiased = torch.stack([metrics.linear_cka(x, y, unbiased=True) for x, y in pairs])
    assert plain.mean() > 0.7
    assert abs(float(unbiased.mean())) < 0.02
    with pytest.raises(ValueError, match="too few"):
        metrics.linear_cka(states(0, 3, 2), states(1, 3, 2), unbiased=True)


def test_pairwise_cosine_equals_the_whole_matrix():
    x, y = states(5, 11, 4), states(6, 7, 4) + 1
    matrix = torch.cosine_similarity(x[:, None], y[None], dim=-1)
    pairs = metrics.pairwise_cosine(x, y)
    torch.testing.assert_close(pairs.mean, matrix.mean())
    torch.testing.assert_close(pairs.std, matrix.std(correction=0))
    tokens = metrics.token_alignment(x, y)
    torch.testing.assert_close(tokens.largest, matrix.max())
    torch.testing.assert_close(tokens.mean_of_largest, matrix.amax(1).mean())
    assert tokens.median <= tokens.mean_of_largest <= tokens.largest


def test_relations_of_a_model_with_itself_do_not_diverge_and_rotations_do_not_matter():
    x, y = states(7, 6, 8), states(8, 6, 4)
    turned = (x.unflatten(1, (2, 4)) @ torch.linalg.qr(states(9, 4, 4)).Q).flatten(1)
    assert metrics.relation_divergence(x, turned, 2).item() < 1e-12
    assert metrics.relation_divergence(x, y, 2) > 0
    assert metrics.relation_divergence(x[:1], y[:1], 2).item() == 0.0  # one token relates to itself alone
    assert metrics.relation_divergence(x, y, 2, causal=True) != metrics.relation_divergence(x, y, 2)
    with pytest.raises(ValueError, match="divide"):
        metrics.relation_divergence(x, y, 3)


def test_feature_fit_of_the_truth_and_of_the_mean():
    target = states(10, 20, 6) + 5
    fit = metrics.feature_fit(target, target)
    assert (fit.smooth_l1.item(), fit.r2.item()) == (0.0, 1.0)
    assert fit.flat.item() == pytest.approx(1.0)
    mean = metrics.feature_fit(target.mean(0).expand_as(target), target)
    assert mean.r2.item() == pytest.approx(0.0)
    assert mean.flat > 0.9  # the published score is high for the mean already


def test_query_pooling_of_a_loud_query_reads_one_token():
    tokens, w_v = states(11, 5, 6), states(12, 6, 6)
    pooled = metrics.query_pooling(tokens, torch.stack([100 * tokens[2], torch.zeros(6).double()]), w_v)
    values = tokens @ w_v.T
    torch.testing.assert_close(pooled.attention.sum(1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(pooled.state[3:], values.mean(0)[3:])
    best = int(tokens.mv(tokens[2]).argmax())
    torch.testing.assert_close(pooled.state[:3], values[best, :3], atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="divide"):
        metrics.query_pooling(tokens, states(0, 4, 6), w_v)


def test_update_ratio_by_hand():
    torch.testing.assert_close(
        metrics.update_ratio(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0])), torch.tensor([0.25, 0.0])
    )
