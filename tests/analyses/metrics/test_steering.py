"""Laws of attribution, of routes, of steering edits and of groups of the vocabulary."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from torch import Tensor

from ...helpers.patterns import BAD_SHAPE, generator


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_occlusion_saliency_of_single_occlusions_is_the_divergence_itself():
    divergence = numbers(0, 4, 3).abs()
    torch.testing.assert_close(metrics.occlusion_saliency(divergence, torch.eye(4).bool()), divergence.T)
    both = torch.ones(4, 2, dtype=torch.bool)
    both[:, 1] = False
    saliency = metrics.occlusion_saliency(divergence, both)
    torch.testing.assert_close(saliency[:, 0], divergence.mean(0))
    assert (saliency[:, 1] == 0).all()
    with pytest.raises(BAD_SHAPE):
        metrics.occlusion_saliency(divergence, both[:3])


def test_modalities_that_add_up_do_not_interact():
    image, text, bias = numbers(1, 3, 9)
    added = metrics.modality_interaction(image + text + bias, text + bias, image + bias, bias)
    assert added.interaction.abs().max() < 1e-12
    assert torch.isfinite(added.guided).sum() >= 1
    full = image + text + bias + 5 * image * text
    guidance = metrics.modality_interaction(full, text + bias, image + bias, bias)
    torch.testing.assert_close(guidance.interaction, 5 * image * text)
    plausible = full >= full.max() + math.log(0.1)
    assert torch.equal(torch.isfinite(guidance.guided), plausible)
    torch.testing.assert_close(guidance.guided[plausible], (full + 5 * image * text)[plausible])
    quiet = metrics.modality_interaction(full, text + bias, image + bias, bias, min_variance=1e9)
    torch.testing.assert_close(quiet.guided[plausible], full[plausible])
    torch.testing.assert_close(quiet.variance, guidance.interaction.var())


def test_routes_sum_to_one_and_a_part_that_is_everything_takes_all():
    parts, residual = numbers(2, 5, 3, 8), numbers(3, 3, 8)
    shares = metrics.route_shares(parts, residual)
    torch.testing.assert_close(shares.parts.sum(0) + shares.residual, torch.ones(3, dtype=torch.float64))
    scaled = metrics.route_shares(1e3 * parts, 1e3 * residual)
    torch.testing.assert_close(scaled.parts, shares.parts, atol=1e-4, rtol=0)
    alone = torch.zeros(4, 8)
    alone[2] = 1.0
    assert metrics.route_shares(alone, torch.zeros(8)).parts[2] > 0.999
    opposed = metrics.route_shares(torch.stack([2 * torch.ones(8), -0.5 * torch.ones(8)]), torch.zeros(8))
    assert opposed.parts[1] < 1e-5


def test_nearness_is_at_most_the_size_of_a_part_and_what_shares_are_made_of():
    parts, residual = numbers(2, 5, 3, 8), numbers(3, 3, 8)
    whole = parts.sum(0) + residual
    near = metrics.route_nearness(parts, whole)
    assert (near <= parts.abs().sum(-1) + 1e-9).all()
    assert (near >= 1e-5).all()
    total = near.sum(0) + metrics.route_nearness(residual, whole)
    torch.testing.assert_close(near / total, metrics.route_shares(parts, residual).parts)


def test_strong_routes_sum_to_one_or_are_none():
    shares = metrics.route_shares(numbers(4, 6, 5, 8), numbers(5, 5, 8))
    strong = metrics.strong_routes(shares, 0.1)
    torch.testing.assert_close(strong.parts.sum(0) + strong.residual, torch.ones(5, dtype=torch.float64))
    assert ((strong.parts == 0) == (shares.parts <= 0.1)).all()
    none = metrics.strong_routes(shares, 1.0)
    assert none.parts.abs().sum() + none.residual.abs().sum() == 0


def test_direction_of_planted_means_and_its_removal():
    shift = torch.tensor([3.0, 0.0, -4.0, 0.0], dtype=torch.float64)
    noise = numbers(6, 4000, 4)
    positive, negative = noise[:2000] + shift, noise[2000:]
    direction = metrics.difference_of_means(positive, negative)
    torch.testing.assert_close(direction, shift, atol=0.2, rtol=0)
    assert metrics.spread_along(positive, negative, shift).item() == pytest.approx(1.0, rel=0.05)
    assert metrics.d_prime(positive, negative).item() == pytest.approx(5.0, rel=0.05)
    rest = metrics.project_out(positive, direction)
    assert (rest @ direction).abs().max() < 1e-9
    torch.testing.assert_close(metrics.project_out(rest, 7 * direction), rest)
    with pytest.raises(ValueError, match="zero"):
        metrics.project_out(positive, torch.zeros(4, dtype=torch.float64))


def test_weights_on_keys_before_and_after_the_softmax_are_one_edit():
    scores = numbers(7, 3, 8)
    highlighted, prompt = torch.arange(8) == 2, torch.arange(8) < 6
    steered = metrics.emphasize_keys(scores, highlighted, prompt, 0.05).softmax(-1)
    weights = torch.where(prompt & ~highlighted, 0.05, 1.0).double()
    torch.testing.assert_close(steered, metrics.reweight_keys(scores.softmax(-1), weights))
    torch.testing.assert_close(metrics.emphasize_keys(scores, highlighted, prompt, 1.0), scores)
    torch.testing.assert_close(steered[:, 6] / steered[:, 2], (scores[:, 6] - scores[:, 2]).exp())
    assert (steered[:, 2] > scores.softmax(-1)[:, 2]).all()
    with pytest.raises(ValueError, match="positive"):
        metrics.emphasize_keys(scores, highlighted, prompt, 0.0)


def test_an_emphasis_is_the_merge_of_two_attentions():
    scores, v = numbers(8, 8), numbers(9, 8, 3)
    highlighted = torch.arange(8) < 3
    steered = metrics.emphasize_keys(scores, highlighted, torch.ones(8).bool(), 0.2).softmax(-1) @ v
    inside, outside = (scores[part].softmax(-1) @ v[part] for part in (highlighted, ~highlighted))
    mass = scores[highlighted].exp().sum(), 0.2 * scores[~highlighted].exp().sum()
    torch.testing.assert_close(steered, (mass[0] * inside + mass[1] * outside) / sum(mass))


def test_head_edits_of_zero_change_nothing_and_offsets_add():
    z, scale, offset = numbers(10, 2, 5, 3, 4), numbers(11, 3, 4), numbers(12, 3, 4)
    zero = torch.zeros_like(scale)
    torch.testing.assert_close(metrics.edit_heads(z, zero, zero), z)
    edited = metrics.edit_heads(z, scale, offset)
    torch.testing.assert_close(edited - metrics.edit_heads(z, scale, zero), offset.expand_as(z))
    torch.testing.assert_close(metrics.edit_heads(z, -torch.ones_like(scale), offset), offset.expand_as(z))
    torch.testing.assert_close(metrics.edit_strength(2 * scale), 2 * scale.norm(dim=-1))


@pytest.mark.parametrize("p", [10, 11, 13])
def test_the_basis_sees_a_planted_period(p):
    basis = metrics.number_basis(p)
    assert basis.shape == (p, p)
    for k in range(1, (p - 1) // 2):
        wave = (2 * torch.pi * k * torch.arange(p, dtype=torch.float64) / (p - 1) + 0.3).cos()
        magnitudes = metrics.component_magnitudes(metrics.number_spectrum(wave))
        assert magnitudes.shape == (1 + p // 2,)
        assert magnitudes.argmax().item() == k
    even = metrics.component_magnitudes(metrics.number_spectrum(torch.ones(p, dtype=torch.float64)))
    assert even.argmax().item() == 0


@pytest.mark.parametrize("keep", ["low", "high"])
def test_filters_remove_what_they_say_and_are_projections(keep):
    unembedding, output = numbers(13, 11, 16), numbers(14, 2, 16)
    filtered = metrics.filter_components(output, unembedding, 3, keep)
    magnitudes = metrics.component_magnitudes(metrics.number_spectrum(filtered @ unembedding.T))
    removed = slice(3, None) if keep == "low" else slice(1, 3)
    assert magnitudes[:, removed].abs().max() < 1e-9
    torch.testing.assert_close(metrics.filter_components(filtered, unembedding, 3, keep), filtered)
    for seed in range(3):  # no nearer vector without those components
        other = metrics.filter_components(output + numbers(seed, 2, 16), unembedding, 3, keep)
        assert ((output - other).norm(dim=-1) >= (output - filtered).norm(dim=-1) - 1e-9).all()
    with pytest.raises(ValueError, match="below 1"):
        metrics.filter_components(output, unembedding, 0, keep)


def test_language_shares_pool_counts_or_average_texts():
    counts = torch.stack(
        [
            metrics.language_counts([("en", True), ("en", False), ("zh", True), ("zh", True)], ["en", "zh"]),
            metrics.language_counts([("en", True), ("fr", True)], ["en", "zh"]),
            metrics.language_counts([("fr", True)], ["en", "zh"]),
        ]
    )
    assert counts.tolist() == [[1, 2], [1, 0], [0, 0]]
    assert metrics.pooled_shares(counts).tolist() == [0.5, 0.5]
    torch.testing.assert_close(metrics.mean_shares(counts), torch.tensor([4 / 9, 2 / 9], dtype=torch.float64))
    assert metrics.pooled_shares(counts[2:]).isnan().all()
