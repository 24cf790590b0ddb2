"""Laws of neurons, experts and redundancy: planted neurons, exact removal, sums over batches, null models."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from torch import Tensor

from ...helpers.patterns import BAD_SHAPE, generator


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def planted_probability() -> Tensor:
    """2 layers × 50 neurons × 3 groups: even neurons, a silent one, and one of group 2 at (1, 7)."""
    probability = 0.2 + 0.1 * torch.rand(2, 50, 3, generator=generator(0))
    probability[0, 4] = 0.0
    probability[1, 7] = torch.tensor([0.01, 0.02, 0.9])
    return probability


def test_lape_finds_the_planted_neuron_and_its_group_and_not_the_silent_one():
    probability = planted_probability()
    neurons = metrics.specific_neurons(probability, share=0.01)
    assert neurons.tolist() == [[1, 7]]
    assert metrics.neuron_groups(probability, neurons).tolist() == [[False, False, True]]
    assert metrics.group_entropy(probability)[0, 4] == 0
    assert not metrics.active_neurons(probability, 0.0)[0, 4]


def test_group_entropy_is_bounded_scale_free_and_follows_the_groups():
    probability = torch.rand(4, 6, 5, generator=generator(1))
    value = metrics.group_entropy(probability)
    assert ((value > 0) & (value <= math.log(5))).all()
    torch.testing.assert_close(metrics.group_entropy(0.1 * probability), value)
    torch.testing.assert_close(metrics.group_entropy(probability[..., [4, 2, 0, 1, 3]]), value)
    assert metrics.group_entropy(torch.ones(5)).item() == pytest.approx(math.log(5))


def test_specific_neurons_are_no_more_than_the_filter_lets_through():
    probability = planted_probability()
    active = int(metrics.active_neurons(probability, 0.95).sum())
    assert 0 < active < 100
    assert len(metrics.specific_neurons(probability, share=1.0)) == active
    with pytest.raises(ValueError, match="rate"):
        metrics.smallest_at(probability, 95)


def test_removing_a_neuron_changes_the_output_by_what_the_metric_says():
    activation, w_down = numbers(2, 6, 5), numbers(3, 4, 5)
    removal = metrics.neuron_removal(activation, w_down)
    for k in range(5):
        without = activation.clone()
        without[:, k] = 0.0
        torch.testing.assert_close(removal[:, k], (activation @ w_down.T - without @ w_down.T).norm(dim=-1))
    with pytest.raises(BAD_SHAPE):
        metrics.neuron_removal(activation, w_down.T)


def test_removing_a_channel_equals_the_softmax_without_it():
    q, k = numbers(4, 2, 7, 4)
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)

    def pattern(q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.T / 2).masked_fill(future, -torch.inf).softmax(-1)

    removal = metrics.channel_removal(q, k)
    for j in range(4):
        without = q.clone()
        without[:, j] = 0.0
        torch.testing.assert_close(removal[j], (pattern(without, k) - pattern(q, k)).norm())
    silent = q.clone()
    silent[:, 1] = 0.0
    assert metrics.channel_removal(silent, k)[1] == 0


def test_energy_adds_up_over_batches():
    activations = numbers(5, 3, 8, 6)
    energy = metrics.activation_energy(activations)
    parts = torch.stack([metrics.activation_energy(part) for part in activations]).square().sum(0).sqrt()
    torch.testing.assert_close(energy, parts)
    torch.testing.assert_close(energy, activations.square().sum((0, 1)).sqrt())
    torch.testing.assert_close(metrics.head_energy(torch.full((2, 5), 3.0)), torch.full((2,), 3.0 + 2 * 3.0))


def test_explanation_score_is_blind_to_shift_and_scale_of_the_responses():
    a, b, corpus = numbers(6, 5) + 2, numbers(7, 4), numbers(8, 30)
    score = metrics.explanation_score(a, b, corpus)
    torch.testing.assert_close(metrics.explanation_score(3 * a + 1, 3 * b + 1, 3 * corpus + 1), score)
    torch.testing.assert_close(metrics.explanation_score(b, a, corpus), -score)
    with pytest.raises(ValueError, match="empty"):
        metrics.explanation_score(a, b[:0], corpus)


def test_experts_that_are_sure_and_experts_that_know_nothing():
    sure = metrics.expert_use(100 * torch.eye(4).repeat(3, 1), 1)
    assert sure.load.tolist() == [0.25] * 4
    assert sure.mutual_information.item() == pytest.approx(math.log(4), abs=1e-5)
    assert sure.token_entropy_mean.item() == pytest.approx(0.0, abs=1e-5)
    even = metrics.expert_use(torch.zeros(12, 4), 4)
    assert even.token_entropy_normalised.item() == pytest.approx(1.0)
    assert even.mutual_information.item() == pytest.approx(0.0, abs=1e-6)
    lonely = metrics.expert_use(torch.tensor([[9.0, 0.0, 0.0, 0.0]]).repeat(5, 1), 1)
    assert lonely.never_active_share.item() == 0.75
    with pytest.raises(ValueError, match="top_k"):
        metrics.expert_use(torch.zeros(2, 4), 5)


def test_orthogonal_updates_have_the_importance_of_their_null():
    residual = numbers(9, 20, 6)
    update = numbers(10, 20, 6)
    update -= (update * residual).sum(-1, keepdim=True) / residual.square().sum(-1, keepdim=True) * residual
    importance = metrics.cosine_importance(residual, residual + update)
    torch.testing.assert_close(importance, metrics.orthogonal_importance(residual, update))
    assert metrics.cosine_importance(residual, 3 * residual).abs() < 1e-12
    assert metrics.cosine_importance(residual, -residual).item() == pytest.approx(2.0)


def test_feature_entropy_of_scaled_features():
    features = numbers(11, 30, 4)
    value = metrics.feature_entropy(features)
    torch.testing.assert_close(metrics.feature_entropy(math.e * features + 7), value + 4)
    torch.testing.assert_close(metrics.feature_entropy(features, base=2), value / math.log(2))
    torch.testing.assert_close(metrics.transfer_entropy(features, features / math.e), value * 0 + 4)
    assert metrics.transfer_entropy(features, features) == 0
    with pytest.raises(ValueError, match="too few"):
        metrics.feature_entropy(features[:1])


def test_collapse_distance_by_hand():
    a, b = torch.zeros(7), torch.tensor([1.0, -3.0, 0.0, 0.0, 2.0, 0.0, 4.0])
    assert metrics.collapse_distance(a, b, 3).item() == pytest.approx((3 + 2 + 4) / 3)
    assert metrics.collapse_distance(a, b, 64).item() == 4.0
    assert metrics.collapse_distance(b, b).item() == 0.0
    assert metrics.relative_distance(a, b).item() == pytest.approx(2.0)
    assert metrics.relative_distance(b, 3 * b).item() == pytest.approx(1.0)


def test_the_image_may_go_where_nothing_changes_and_not_where_a_token_does():
    clean = 3 * numbers(12, 5, 6)
    labels = torch.tensor([-100, 2, -100, 1, 4])
    same = metrics.visual_exit(clean, clean.clone(), labels)
    assert (same.agreement.item(), same.allowed) == (1.0, True)
    assert same.loss_clean.item() == pytest.approx(
        float(-sum(clean.log_softmax(-1)[p, labels[p + 1]] for p in (0, 2, 3)) / 3)
    )
    not_counted = clean.clone()
    not_counted[[1, 4]] = -not_counted[[1, 4]]
    assert metrics.visual_exit(clean, not_counted, labels).allowed
    counted = clean.clone()
    counted[2] = -counted[2]
    assert metrics.visual_exit(clean, counted, labels).agreement.item() == pytest.approx(2 / 3)
    assert not metrics.visual_exit(clean, counted, labels).allowed
    with pytest.raises(ValueError, match="counts"):
        metrics.visual_exit(clean, clean, torch.full((5,), -100))


def test_used_weights_follow_the_inputs_and_random_masks_overlap_by_chance():
    weight = torch.ones(3, 8)
    inputs = torch.arange(8.0).repeat(4, 1)
    used = metrics.used_weights(weight, inputs, 0.5)
    assert used.tolist() == [[False] * 4 + [True] * 4] * 3
    torch.testing.assert_close(metrics.used_weights(weight, inputs.view(2, 2, 8), 0.5), used)
    assert metrics.mask_overlap(used, used).item() == 1.0
    masks = torch.rand(2, 200, 200, generator=generator(13)) < 0.5
    assert metrics.mask_overlap(*masks).item() == pytest.approx(0.5 / 1.5, abs=0.01)
    with pytest.raises(BAD_SHAPE):
        metrics.used_weights(weight, inputs[:, :3], 0.5)


def test_update_ranks_of_equal_ranks_update_nothing():
    weight = numbers(14, 9)
    same = metrics.update_ranks(weight, 5 * weight)
    torch.testing.assert_close(same.weight, same.gradient)
    other = metrics.update_ranks(weight, weight.flip(0))
    assert ((other.update > 0) <= (other.weight < other.gradient)).all()
    assert other.update.max() <= 1
    torch.testing.assert_close(metrics.update_ranks(-weight, weight).weight, same.weight)
    with pytest.raises(BAD_SHAPE):
        metrics.update_ranks(weight, weight[:4])
