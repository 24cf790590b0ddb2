"""Laws of weights and keys: against whole matrices, chance levels, planted geometry, optimality."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from torch import Tensor

from ...helpers.patterns import generator


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_composition_equals_the_score_of_whole_matrices():
    w_v, w_q, w_k = numbers(0, 3, 12, 4)
    w_o = numbers(1, 4, 12)
    for receiver in ((w_q, w_k.T), (w_k, w_q.T), (w_v, w_o)):
        ov, w = w_v @ w_o, receiver[0] @ receiver[1]
        scores = metrics.composition((w_v, w_o), receiver)
        torch.testing.assert_close(scores.whole, (ov @ w).norm() / (ov.norm() * w.norm()))
        u, s, vt = torch.linalg.svd(ov)
        torch.testing.assert_close(scores.singular, s[:4])
        for i in range(4):
            part = s[i] * torch.outer(u[:, i], vt[i])
            torch.testing.assert_close(scores.components[i], (part @ w).norm() / (part.norm() * w.norm()))
        shares = scores.singular.square() / scores.singular.square().sum()
        torch.testing.assert_close((shares * scores.components.square()).sum(), scores.whole.square())


def test_composition_by_chance_is_one_over_the_root_of_the_width():
    d = 400
    pairs = [(numbers(seed, d, 8), numbers(seed + 100, 8, d)) for seed in range(40)]
    scores = [metrics.composition(*two).whole for two in zip(pairs[::2], pairs[1::2], strict=True)]
    assert float(torch.stack(scores).mean()) == pytest.approx(1 / math.sqrt(d), rel=0.1)


def test_symmetric_share_equals_the_symmetric_part():
    w_q, w_k = numbers(2, 2, 9, 3)
    w = w_q @ w_k.T
    expected = ((w + w.T) / 2).square().sum() / w.square().sum()
    torch.testing.assert_close(metrics.symmetric_share(w_q, w_k), expected)
    assert metrics.symmetric_share(w_q, w_q).item() == pytest.approx(1.0)
    quarter_turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert metrics.symmetric_share(w_q[:, :2] @ quarter_turn, w_q[:, :2]).item() == pytest.approx(0.0)


def test_interference_equals_pairs_and_its_stream_and_chance():
    keys = numbers(3, 8, 5)
    cosines = torch.cosine_similarity(keys[:, None], keys[None], dim=-1)
    others = ~torch.eye(8, dtype=torch.bool)
    scores = metrics.key_interference(keys)
    torch.testing.assert_close(scores.square, cosines[others].square().mean())
    torch.testing.assert_close(scores.absolute, cosines[others].abs().mean())
    units = torch.nn.functional.normalize(keys, dim=-1)
    torch.testing.assert_close(metrics.streamed_interference(units.T @ units, 8), scores.square)
    many = metrics.key_interference(numbers(4, 400, 16))
    assert many.square.item() == pytest.approx(1 / 16, rel=0.05)
    with pytest.raises(ValueError, match="two"):
        metrics.key_interference(keys[:1])


def test_keys_inside_a_square_cannot_be_selected_and_its_corners_can():
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    keys = torch.cat([corners, torch.tensor([[0.0, 0.0], [0.9, 0.8], [1.1, 0.0]])])
    assert metrics.unselectable_keys(keys).tolist() == [False] * 4 + [True, True, False]
    turned = keys @ torch.tensor([[0.6, -0.8], [0.8, 0.6]]) + 5
    assert torch.equal(metrics.unselectable_keys(turned), metrics.unselectable_keys(keys))


def test_no_query_ranks_an_unselectable_key_first_and_keys_of_one_length_are_all_selectable():
    keys = numbers(5, 30, 3)
    inside = metrics.unselectable_keys(keys)
    assert 0 < inside.sum() < 30
    first = (numbers(6, 20_000, 3) @ keys.T).argmax(-1).unique()
    assert not inside[first].any()
    sphere = torch.nn.functional.normalize(keys, dim=-1)
    assert not metrics.unselectable_keys(sphere).any()
    assert metrics.unselectable_keys(torch.cat([keys[:1], keys[:1]])).all()


def test_layernorm_is_the_projection_scaled():
    x = numbers(7, 5, 9) + 3
    projected = metrics.remove_mean_direction(x)
    scaled = projected / projected.norm(dim=-1, keepdim=True) * 3
    torch.testing.assert_close(scaled, torch.nn.functional.layer_norm(x, (9,), eps=0.0))
    assert metrics.cosine_to_ones(projected).abs().max() < 1e-12
    torch.testing.assert_close(metrics.cosine_to_ones(torch.full((4,), -2.0)), torch.tensor(-1.0))
    ones = torch.ones(9, dtype=torch.float64)
    torch.testing.assert_close(metrics.cosine_to_ones(x), torch.cosine_similarity(x, ones.expand_as(x), dim=-1))


SETTING = {"context_length": 25, "noise_variance": 0.2, "d": 3}


def test_the_best_output_weights_cannot_be_bettered():
    omega = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64)
    best = metrics.best_output_weights(omega, **SETTING).requires_grad_()
    loss = metrics.regression_loss(omega, best, **SETTING)
    (slope,) = torch.autograd.grad(loss, best)
    assert slope.abs().max() < 1e-9
    for seed in range(5):
        assert metrics.regression_loss(omega, best.detach() + 0.1 * numbers(seed, 3), **SETTING) > loss
    silent = metrics.regression_loss(omega, torch.zeros(3, dtype=torch.float64), **SETTING)
    assert silent.item() == pytest.approx(1.2)
    with pytest.raises(ValueError, match="context_length"):
        metrics.regression_loss(omega, omega, context_length=0, noise_variance=0.1, d=4)


def test_diagonal_numbers_of_a_multiple_of_the_identity_and_of_chance():
    assert metrics.diagonal_share(3 * torch.eye(5)).item() == pytest.approx(1.0)
    assert metrics.diagonal_variation(3 * torch.eye(5)).item() == 0.0
    assert metrics.diagonal_share(numbers(8, 200, 200)).item() == pytest.approx(1 / 200, rel=0.3)
    assert metrics.zero_sum(torch.tensor([1.0, -1.0])).item() == 0.0
    assert metrics.zero_sum(torch.tensor([-1.0, -3.0])).item() == 1.0


def test_a_trained_in_context_regression_has_heads_of_both_signs_that_cancel_and_its_twin_has_not():
    """One softmax layer, four heads, trained here: KQ_h near ω_h · 1, each ω_h of the sign of its μ_h, Σ μ near 0."""
    for seed in (0, 3):
        blocks, written = _trained_regression(seed, told=True)
        omega = blocks.diagonal(dim1=1, dim2=2).mean(1)
        assert all(float(metrics.diagonal_share(block)) > 0.6 for block in blocks)  # by chance ¼
        assert torch.equal(omega.sign(), written.sign())
        assert len({*omega.sign().tolist()}) == 2
        assert float(metrics.zero_sum(written)) < 0.1
        setting = {"context_length": 20, "noise_variance": 0.1, "d": 4}
        assert float(metrics.regression_loss(omega, written, **setting)) < 0.5  # 1.1 where nothing is learned
    blocks, written = _trained_regression(0, told=False)
    assert float(written.abs().max()) < 0.2
    assert float(torch.stack([metrics.diagonal_share(block) for block in blocks]).mean()) < 0.5


def _trained_regression(seed: int, told: bool) -> tuple[Tensor, Tensor]:
    """KQ [h, d, d] and μ [h] of one layer trained to read y of the last x off the pairs before it. told: whether the
    pairs' labels are theirs; else those of another order.
    """
    rng = generator(seed)
    blocks, written = (0.1 * torch.randn(*shape, generator=rng) for shape in ((4, 4, 4), (4,)))
    learning = [one.requires_grad_() for one in (blocks, written)]
    optimizer = torch.optim.Adam(learning, lr=0.02)
    for _ in range(1500):
        x, task = torch.randn(128, 21, 4, generator=rng), torch.randn(128, 4, generator=rng) / 2
        y = (x @ task[..., None])[..., 0]
        labels = y[:, :20] + 0.1**0.5 * torch.randn(128, 20, generator=rng)
        labels = labels if told else labels[torch.randperm(128, generator=rng)]
        pattern = torch.einsum("bi,hij,bkj->bhk", x[:, 20], blocks, x[:, :20]).softmax(-1)
        loss = (torch.einsum("bhk,bk,h->b", pattern, labels, written) - y[:, 20]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return blocks.detach(), written.detach()
