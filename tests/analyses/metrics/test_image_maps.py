"""Laws of maps over the image: brute force, autograd, planted objects, oracles and chance."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from torch import Tensor

from ...helpers.patterns import BAD_SHAPE, generator


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def test_box_sums_equal_loops():
    values = numbers(0, 5, 7)
    sums = metrics.box_sums(values, 2, 3)
    slow = torch.stack([torch.stack([values[y : y + 2, x : x + 3].sum() for x in range(5)]) for y in range(4)])
    torch.testing.assert_close(sums, slow)
    torch.testing.assert_close(metrics.box_sums(values, 5, 7), values.sum().reshape(1, 1))
    with pytest.raises(ValueError, match="does not fit"):
        metrics.box_sums(values, 6, 1)


def test_box_scores_of_a_planted_object_of_an_even_map_and_of_its_complement():
    box = metrics.Box(y=1, x=2, height=2, width=3)
    planted = torch.zeros(6, 8)
    planted[1:3, 2:5] = 1.0
    scores = metrics.box_scores(planted, box)
    assert (scores.share.item(), scores.hit, scores.iou, scores.auroc) == (1.0, True, 1.0, 1.0)
    assert scores.ratio > 1
    even = metrics.box_scores(torch.ones(6, 8), box)
    assert (even.ratio.item(), even.auroc) == (pytest.approx(1.0), 0.5)
    assert even.share.item() == pytest.approx(even.area)
    away = metrics.box_scores(1 - planted, box)
    assert (away.share.item(), away.hit, away.iou, away.auroc) == (0.0, False, 0.0, 0.0)


def test_auroc_counts_pairs():
    values = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.0, 5.0]])
    scores = metrics.box_scores(values, metrics.Box(0, 1, 1, 2))
    inside, outside = [2.0, 3.0], [1.0, 2.0, 0.0, 5.0]
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert scores.auroc == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(metrics.box_scores(values, metrics.Box(0, 0, 2, 3)).auroc)
    with pytest.raises(ValueError, match="not inside"):
        metrics.box_scores(values, metrics.Box(1, 1, 1, 3))


def test_crop_lies_around_a_planted_object_and_inside_the_image():
    values = torch.full((12, 12), 0.01)
    values[8:10, 1:3] = 1.0
    x1, y1, x2, y2 = metrics.adaptive_crop(values, (240, 240), 40)
    assert x1 <= 20 < 60 <= x2
    assert y1 <= 160 < 200 <= y2
    corner = torch.zeros(12, 12)
    corner[11, 11] = 1.0
    x1, y1, x2, y2 = metrics.adaptive_crop(corner, (240, 240), 40)
    assert (x2, y2) == (240, 240)
    assert x2 - x1 == y2 - y1 >= 40
    assert metrics.adaptive_crop(corner, (240, 200), 300) == (0, 0, 240, 200)
    with pytest.raises(ValueError, match="does not fit"):
        metrics.adaptive_crop(corner, (240, 240), 10)


def test_regions_join_at_corners_only_if_asked():
    cells = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]]).bool()
    assert metrics.label_regions(cells, diagonal=True)[1] == 2
    labels, count = metrics.label_regions(cells, diagonal=False)
    assert count == 3
    masses = metrics.region_masses(torch.arange(12.0).reshape(4, 3), labels, count)
    assert sorted(masses.tolist()) == [0.0, 4.0, 19.0]
    assert len(metrics.region_masses(torch.ones(2, 2), torch.zeros(2, 2).long(), 0)) == 0


def test_spatial_entropy_of_one_and_of_two_equal_blobs():
    values = torch.zeros(8, 8)
    values[1, 1] = 1.0
    assert metrics.spatial_entropy(values).item() == pytest.approx(0.0, abs=1e-6)
    values[5:7, 6] = 0.5 + values.mean()  # above the mean by about as much in sum
    values[6, 6] = values[1, 1]
    values[5, 6] = 0.0
    assert metrics.spatial_entropy(values).item() == pytest.approx(math.log(2), abs=1e-6)
    assert metrics.spatial_entropy(torch.ones(4, 4)).item() == 0.0
    noise = numbers(1, 9, 9).float()
    whole = metrics.spatial_entropy(noise, 0.3, renormalized=True)
    assert whole != metrics.spatial_entropy(noise, 0.3)


def test_top_regions_keep_the_heaviest():
    values = torch.zeros(6, 6)
    values[0, 0], values[2, 2:4], values[5, 5] = 3.0, 2.0, 1.0
    assert metrics.top_regions(values, 4 / 36, keep=1).nonzero().tolist() == [[2, 2], [2, 3]]
    assert metrics.top_regions(values, 4 / 36, keep=2).sum() == 3
    assert metrics.bounding_box(metrics.top_regions(values, 4 / 36, keep=2)) == metrics.Box(0, 0, 3, 4)
    with pytest.raises(ValueError, match="no cell"):
        metrics.bounding_box(torch.zeros(2, 2).bool())


def test_region_boxes_swallow_what_lies_inside_a_box():
    values = torch.zeros(5, 6)
    values[0, 0:4] = values[0:4, 0] = 1.0  # a corner, whose box holds (2, 2)
    values[2, 2], values[4, 5] = 9.0, 2.0
    assert metrics.region_boxes(values, 0.5) == [
        (metrics.Box(0, 0, 4, 4), 1.0),
        (metrics.Box(4, 5, 1, 1), 2.0),
    ]
    assert metrics.region_boxes(values, 10.0) == []


def test_colour_complexity_of_one_hue_and_of_all():
    assert metrics.colour_complexity(torch.full((5, 5), 7)).item() == 0.0
    assert metrics.colour_complexity(torch.arange(180)).item() == pytest.approx(1.0)
    assert metrics.colour_complexity(torch.tensor([0, 0, 1, 1]), 2).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="not all"):
        metrics.colour_complexity(torch.tensor([180]))


def test_relative_attention_and_fusion_are_linear_in_the_question():
    question, general = numbers(2, 2, 3, 4, 5)
    contrast = metrics.relative_attention(question, general, 0.01)
    torch.testing.assert_close(metrics.relative_attention(3 * question, general, 0.01), 3 * contrast)
    fused = metrics.fused_contrast(contrast)
    torch.testing.assert_close(fused, contrast[0].sum(0) + 2 * contrast[1].sum(0) + 3 * contrast[2].sum(0))
    torch.testing.assert_close(metrics.relative_attention(question, question), torch.ones_like(question))


def test_map_entropy_renormalises():
    values = numbers(3, 2, 8)
    torch.testing.assert_close(metrics.map_entropy(7 * values), metrics.map_entropy(values))
    assert metrics.map_entropy(torch.ones(8)).item() == pytest.approx(math.log(8))


def test_pattern_gradient_is_what_autograd_says():
    rows, v = numbers(4, 2, 5).softmax(-1).requires_grad_(), numbers(5, 2, 5, 3) - 0.5
    z = torch.einsum("hk,hkd->hd", rows, v)
    z.retain_grad()
    (z.sin().sum() ** 2).backward()
    assert z.grad is not None
    torch.testing.assert_close(metrics.pattern_gradient(rows.detach(), v, z.grad), rows.grad)
    expected = (rows.detach() * rows.grad.clamp_min(0)).mean(0)
    torch.testing.assert_close(metrics.gradient_attention(rows.detach(), v, z.grad), expected)


def test_gaze_shift_does_not_see_sinks_and_finds_what_a_word_turns_to():
    attention = torch.full((2, 4, 3, 9), 0.02)
    attention[..., 3] = 0.6  # a sink, at all times
    attention[:, :2, 2, 7] += 0.2  # half of the heads turn to patch 7 at the second word
    gaze = metrics.gaze_shift(attention, torch.tensor([1]), 5.0)
    assert gaze.saliency.argmax().item() == 7
    assert gaze.shift[3].item() == pytest.approx(0.0, abs=1e-7)
    assert gaze.shift[7].item() == pytest.approx(0.2)
    assert gaze.multiplier.max().item() == pytest.approx(math.exp(5.0))
    still = metrics.gaze_shift(attention, torch.tensor([0]), 5.0)
    torch.testing.assert_close(still.multiplier, torch.ones(9))
    with pytest.raises(ValueError, match="outside"):
        metrics.gaze_shift(attention, torch.tensor([2]))


def test_changes_of_gaze_are_gains_and_losses():
    attention, words = numbers(7, 3, 1, 5, 8), torch.tensor([0, 3])
    gain, loss, both = (metrics.gaze_changes(attention, words, part) for part in ("gain", "loss", "both"))
    torch.testing.assert_close(gain + loss, both)  # of one head: nothing is chosen
    torch.testing.assert_close(gain - loss, (attention[:, 0, words + 1] - attention[:, 0, words]).mean(1))
    torch.testing.assert_close(metrics.gaze_changes(-attention, words), loss)
    with pytest.raises(ValueError, match="empty"):
        metrics.gaze_changes(attention, words[:0])


def test_detail_is_at_edges_and_pure_gradient_only_where_it_is():
    picture = torch.zeros(3, 24, 24)
    picture[:, :, 12:] = ((torch.arange(24)[:, None] + torch.arange(12)) % 2).float()  # a chequered half
    detail = metrics.high_pass(picture)
    assert detail[:, :6].abs().max() < 1e-6
    assert detail[:, 16:].min() > 0.1
    question, general = numbers(8, 3, 24, 24), numbers(9, 3, 24, 24)
    found = metrics.pure_gradient(question, general, picture)
    assert bool((found[detail <= detail.median()] == 0).all())
    inside = detail > detail.median()
    torch.testing.assert_close(found[inside], (question.norm(dim=0) / general.norm(dim=0))[inside])
    torch.testing.assert_close(metrics.pure_gradient(3 * question, general, picture), 3 * found)


def test_grounded_map_takes_the_heads_that_look_at_the_image():
    attention = 0.01 * numbers(6, 3, 2, 2, 6)
    attention[1, 0, 0, 4] = 0.9
    attention[2, 1, 1, 4] = 0.9
    grounded = metrics.grounded_map(attention, 1)
    assert grounded.heads.tolist() == [[[1, 0]], [[2, 1]]]
    assert grounded.map.max().item() == 1.0
    assert grounded.map.argmax().item() == 4
    everything = metrics.grounded_map(attention, 6).map
    mean = attention.mean((0, 1, 2))
    torch.testing.assert_close(everything, mean / mean.max())
    with pytest.raises(ValueError, match="top"):
        metrics.grounded_map(attention, 7)


def test_elbow_is_blind_to_order_and_scale():
    values = torch.tensor([0.03, 0.9, 0.01, 0.02, 0.5, 0.04, 0.05])
    assert metrics.elbow(values) == 6
    order = torch.tensor([3, 1, 6, 0, 5, 2, 4])
    assert order[metrics.elbow(10 * values[order] + 1)] == 6
    with pytest.raises(ValueError, match="elbow"):
        metrics.elbow(values[:2])


def test_token_activations_are_scaled_and_follow_the_tokens():
    tokens = numbers(7, 10, 6)
    tokens[4] += 5.0
    order = torch.randperm(10, generator=generator(8))
    for activation in (metrics.token_magnitude, metrics.token_phase):
        value = activation(tokens)
        assert (value.min().item(), value.max().item()) == (0.0, 1.0)
        torch.testing.assert_close(activation(tokens[order]), value[order])
    assert metrics.token_magnitude(tokens).argmax().item() == 4
    torch.testing.assert_close(metrics.token_magnitude(3 * tokens + 1), metrics.token_magnitude(tokens))


def test_iou_of_the_truth_itself_is_one_at_every_threshold():
    truth = torch.tensor([[1, 0], [1, 1]]).bool()
    assert metrics.iou_by_threshold(truth.float(), truth).tolist() == [1.0] * 9
    assert metrics.iou_by_threshold(1 - truth.float(), truth).tolist() == [0.0] * 9
    none = torch.zeros(2, 2)
    assert metrics.iou_by_threshold(none, none.bool()).isnan().all()
    fixed = metrics.iou_by_threshold(torch.tensor([0.2, 0.6]), torch.tensor([False, True]), torch.tensor([0.1, 0.5]))
    assert fixed.tolist() == [0.5, 1.0]


def test_token_map_of_a_planted_token_without_and_with_a_confounder():
    unembedding = torch.eye(4)
    image = torch.tensor([[2.0, 0, 0, 0], [0, 3.0, 0, 0], [1.0, 1.0, 0, 0], [0, 0, 0, 5.0]])
    nothing = metrics.token_activation_map(image, torch.zeros(1, 4), torch.tensor([3]), 0, unembedding)
    assert nothing.cleaned.tolist() == nothing.raw.tolist() == [2.0, 0.0, 1.0, 0.0]
    confounded = metrics.token_activation_map(image, torch.ones(2, 4), torch.tensor([1, 0]), 0, unembedding)
    assert confounded.interference.tolist() == [0.0, 3.0, 1.0, 0.0]
    assert confounded.scale.item() == pytest.approx(0.1)
    torch.testing.assert_close(confounded.cleaned, torch.tensor([2.0, 0.0, 0.9, 0.0]))
    with pytest.raises(ValueError, match="target"):
        metrics.token_activation_map(image, torch.ones(2, 4), torch.tensor([1, 0]), 4, unembedding)


def test_rank_filter_keeps_even_maps_and_removes_single_outliers():
    torch.testing.assert_close(metrics.rank_filter(torch.full((4, 5), 0.3)), torch.full((4, 5), 0.3))
    assert (metrics.rank_filter(torch.zeros(3, 3)) == 0).all()
    speckled = torch.full((7, 7), 0.5)
    speckled[3, 3] = 1.0
    filtered = metrics.rank_filter(speckled)
    assert (filtered - 0.5).abs().max() < 1e-3
    values = numbers(9, 6, 5)
    assert (metrics.rank_filter(values) <= values.max()).all()
    torch.testing.assert_close(metrics.rank_filter(values.T), metrics.rank_filter(values).T)
    torch.testing.assert_close(metrics.rank_filter(3 * values), 3 * metrics.rank_filter(values))


def test_block_statistics_of_uniform_attention():
    n = 7
    values = metrics.block_statistics(torch.full((2, n, n), 1 / n))
    for name in ("cls_to_cls", "patch_to_self", "cls_to_patch_mean", "patch_to_cls_mean"):
        torch.testing.assert_close(getattr(values, name), torch.full((2,), 1 / n))
    torch.testing.assert_close(values.patch_to_self_adjusted, torch.full((2,), 1 / (n - 1)))
    torch.testing.assert_close(values.cls_entropy, torch.full((2,), math.log(n - 1)), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.patch_entropy_mean, values.cls_entropy)
    with pytest.raises(BAD_SHAPE):
        metrics.block_statistics(torch.ones(2, 1, 1))


def test_block_statistics_do_not_depend_on_the_order_of_patches():
    pattern = numbers(10, 3, 6, 6).softmax(-1)
    order = torch.tensor([0, 4, 2, 5, 1, 3])
    turned = metrics.block_statistics(pattern[:, order][:, :, order])
    for value, other in zip(metrics.block_statistics(pattern), turned, strict=True):
        torch.testing.assert_close(value, other)
