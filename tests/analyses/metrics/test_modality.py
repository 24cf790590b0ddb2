"""Laws of the modality budget: shares add up, padding side and permutation do not matter, planted heads come out."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from torch import Tensor

from ...helpers.patterns import BAD_SHAPE, LENGTHS, SIZE, assert_lists_close, chosen_columns, generator, ragged


def with_image(side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Patterns with an image on the second to fourth token; the shortest text ends with it."""
    pattern, mask = ragged(side)
    return pattern, chosen_columns(mask, 1, 2, 3), mask


@pytest.mark.parametrize("side", ["left", "right"])
def test_flows_equal_loops(side):
    pattern, image, mask = with_image(side)
    flows = metrics.modality_flows(pattern, image, mask)
    for i, n in enumerate(LENGTHS):
        start = SIZE - n if side == "left" else 0
        places = range(start, start + n)
        groups = {"image": [k for k in places if image[i, k]], "text": [k for k in places if not image[i, k]]}
        rows = {"image": groups["image"], "text": [q for q in groups["text"] if q > start + 1]}
        for name, value in flows._asdict().items():
            source, target = name.split("_to_")
            sums = [float(pattern[i, 1, q, groups[target]].sum()) for q in rows[source]]
            expected = sum(sums) / len(sums) if sums else math.nan
            assert float(value[i, 1]) == pytest.approx(expected, abs=1e-6, nan_ok=True), name


def test_flows_of_a_group_of_rows_sum_to_one_and_follow_the_heads():
    pattern, image, mask = with_image("left")
    flows = metrics.modality_flows(pattern, image, mask)
    torch.testing.assert_close((flows.text_to_text + flows.text_to_image)[:2], torch.ones(2, 3))
    torch.testing.assert_close(flows.image_to_text + flows.image_to_image, torch.ones(3, 3))
    assert flows.text_to_text[2].isnan().all()  # no text behind this image
    turned = metrics.modality_flows(pattern.flip(1), image, mask)
    torch.testing.assert_close(turned.text_to_image, flows.text_to_image.flip(1), equal_nan=True)


def test_flows_of_a_head_that_looks_at_the_image_alone():
    image = torch.tensor([[False, True, True, False, False]])
    pattern = torch.zeros(1, 1, 5, 5)
    pattern[..., 0, 0] = pattern[..., 1:, 1] = 1.0
    flows = metrics.modality_flows(pattern, image, torch.ones_like(image))
    assert [float(value) for value in flows] == [0.0, 1.0, 0.0, 1.0]


def test_text_behind_image_starts_at_the_first_image():
    mask = torch.tensor([[True] * 6, [True] * 5 + [False]])
    image = torch.tensor([[0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    behind = metrics.text_behind_image(image, mask)
    assert behind.tolist() == [[False, False, True, False, True, True], [False] * 6]


def test_ratio_takes_sums_first_and_the_quotient_last():
    pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.5, 0.25]]]])
    image, mask = torch.tensor([[False, True, False]]), torch.ones(1, 3, dtype=torch.bool)
    rows = torch.tensor([[False, True, True]])
    assert metrics.visual_text_ratio(pattern, image, mask, rows).item() == pytest.approx(1.0 / 1.0)
    assert metrics.visual_text_ratio(pattern, image, mask, mask).item() == pytest.approx(1.0 / 2.0)
    assert metrics.visual_text_ratio(pattern, mask, mask, rows).isnan().all()


def test_a_head_needs_more_than_its_share_of_votes():
    ratios = torch.tensor([[0.3, 0.1, 0.2], [0.3, 0.3, 0.2], [0.1, 0.1, 0.2], [0.1, 0.1, 0.2], [0.1, 0.1, 0.9]])
    assert metrics.visual_votes(ratios, 0.2).tolist() == [2, 1, 1]
    assert metrics.visual_heads(ratios, 0.2, 0.2).tolist() == [True, False, False]
    assert metrics.visual_heads(ratios, 0.2, 0.4).tolist() == [False] * 3
    with pytest.raises(ValueError, match="share"):
        metrics.visual_heads(ratios, 0.2, 40)


def test_attention_around_the_image_adds_up_and_has_nothing_without_text_behind():
    pattern, image, mask = with_image("right")
    parts = metrics.attention_around_image(pattern, image, mask)
    torch.testing.assert_close(sum(part[:2] for part in parts), torch.ones(2, 3))
    assert all(part[2].isnan().all() for part in parts)
    left = metrics.attention_around_image(*with_image("left"))
    assert_lists_close(list(left), list(parts))


def test_overlap_of_tops_by_hand_and_by_chance():
    a = torch.tensor([9.0, 8.0, 7.0, 6.0, 0.0, 0.0, 0.0, 0.0])
    b = torch.tensor([9.0, 0.0, 8.0, 0.0, 7.0, 6.0, 0.0, 0.0])
    assert metrics.top_token_overlap(a, b, 50).item() == 0.5
    assert metrics.top_token_overlap(a, b, 1).item() == 1.0  # one token at least
    rows = torch.rand(2, 2000, 40, generator=generator(0))
    assert float(metrics.top_token_overlap(rows[0], rows[1], 25).mean()) == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="percent"):
        metrics.top_token_overlap(a, b, 0)


def test_one_hop_is_the_sum_over_middle_tokens():
    to_text, to_image = (torch.rand(2, 3, 4, n, generator=generator(n)) for n in (4, 6))
    hop = metrics.one_hop_focus(to_text, to_image)
    slow = sum(to_text[..., j, None] * to_image[..., j, None, :] for j in range(4))
    torch.testing.assert_close(hop, slow)
    with pytest.raises(BAD_SHAPE):
        metrics.one_hop_focus(to_text, to_image[:, :, :3])


def test_attended_patches_do_not_depend_on_scale_or_shift():
    attention = torch.rand(3, 2, 7, generator=generator(1))
    chosen = metrics.attended_patches(attention, 96)
    assert torch.equal(metrics.attended_patches(3 * attention + 1, 96), chosen)
    assert chosen.any(1).all()
    assert not metrics.attended_patches(torch.ones(2, 3, 4), 0).any()
    assert not metrics.attended_patches(attention, 255).any()
