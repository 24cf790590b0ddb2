"""Laws of lenses."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from hypothesis import given
from hypothesis import strategies as st

from ...helpers.patterns import BAD_SHAPE, generator, quick, seeds


def test_logit_lens_applies_norm_then_unembedding():
    resid, weight = torch.randn(2, 3, 4, generator=generator(0)), torch.randn(9, 4, generator=generator(1))
    norm = torch.nn.RMSNorm(4)
    torch.testing.assert_close(metrics.logit_lens(resid, norm, lambda x: x @ weight.T), norm(resid) @ weight.T)
    torch.testing.assert_close(metrics.logit_lens(resid, None, lambda x: x @ weight.T), resid @ weight.T)
    with pytest.raises(BAD_SHAPE):
        metrics.logit_lens(resid, norm, lambda x: x.sum(1))


@quick
@given(seeds, st.floats(-50, 50), st.floats(0.1, 20))
def test_entropy_and_kl_laws(seed, shift, scale):
    p, q = scale * torch.randn(2, 4, 11, generator=generator(seed))
    from_torch = torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none")
    kl = metrics.kl_divergence(p, q)
    torch.testing.assert_close(kl, from_torch.sum(-1), rtol=1e-4, atol=1e-4)
    assert (kl >= 0).all()
    assert (metrics.kl_divergence(p, p) == 0).all()
    torch.testing.assert_close(metrics.kl_divergence(p + shift, q - shift), kl, rtol=1e-3, atol=1e-3)
    nats = metrics.entropy(p)
    torch.testing.assert_close(nats, torch.distributions.Categorical(logits=p).entropy(), rtol=1e-4, atol=1e-5)
    assert ((nats >= 0) & (nats <= math.log(11) + 1e-5)).all()
    order = torch.randperm(11, generator=generator(seed))
    torch.testing.assert_close(metrics.kl_divergence(p[:, order], q[:, order]), kl, rtol=1e-4, atol=1e-5)


def test_entropy_and_kl_of_extreme_logits():
    sure = torch.tensor([[1e4, 0.0, 0.0]])
    other = torch.tensor([[0.0, 1e4, 0.0]])
    assert metrics.entropy(sure).item() == 0
    assert metrics.kl_divergence(sure, other).item() == pytest.approx(1e4)
    never = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert metrics.entropy(never).item() == pytest.approx(math.log(2))
    assert metrics.kl_divergence(never, never).item() == 0
    assert metrics.kl_divergence(torch.zeros(1, 3), never).item() == math.inf
    assert metrics.kl_divergence(torch.full((1, 3), math.nan), never).isnan()
    low = torch.randn(2, 5000, generator=generator(0)).bfloat16()
    torch.testing.assert_close(metrics.entropy(low), metrics.entropy(low.float()))
    with pytest.raises(BAD_SHAPE):
        metrics.kl_divergence(sure, sure[:, :2])


def test_rank_counts_strictly_larger_logits():
    logits = torch.tensor([[3.0, 1.0, 3.0, 2.0]]).expand(4, 4)
    assert metrics.answer_rank(logits, torch.arange(4)).tolist() == [0, 3, 0, 2]
    assert metrics.answer_rank(logits.flip(-1), torch.arange(3, -1, -1)).tolist() == [0, 3, 0, 2]
    broken = torch.tensor([[math.nan, 1.0, 2.0]]).expand(2, 3)
    assert metrics.answer_rank(broken, torch.tensor([0, 2])).tolist() == [3, 1]
    for ids in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match="ids"):
            metrics.answer_rank(broken, ids)


def test_lens_readings_equal_the_single_metrics():
    rng = generator(0)
    lens, final = 3 * torch.randn(2, 700, 500, generator=rng)  # more rows than one chunk holds
    ids = torch.randint(500, (700, 2), generator=rng)
    found = metrics.lens_readings(lens, ids, final.softmax(-1), metrics.entropy(final))
    for j in (0, 1):
        assert torch.equal(found["rank"][:, j], metrics.answer_rank(lens, ids[:, j]))
        torch.testing.assert_close(found["probability"][:, j], metrics.answer_probability(lens, ids[:, j]))
    torch.testing.assert_close(found["entropy"], metrics.entropy(lens))
    torch.testing.assert_close(found["kl"], metrics.kl_divergence(final, lens), rtol=1e-5, atol=1e-5)
    same = metrics.lens_readings(final, ids, final.softmax(-1), metrics.entropy(final))
    assert (same["kl"] < 1e-5).all()
    torch.testing.assert_close(found["probability"], lens.softmax(-1).gather(1, ids))
    with pytest.raises(ValueError, match="ids"):
        metrics.lens_readings(lens, ids + 500, final, final.sum(1))
