"""Laws of VAR's and ACT's edits, against the slow way."""

import pytest
import torch
from crosslens.analyses import metrics
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ...helpers import slow_sinks
from ...helpers.patterns import SIZE, assert_lists_close, chosen_columns, generator, quick, ragged, real_part, seeds


def test_nonsink_ratio_by_hand():
    pattern = torch.tensor([[[[0.5, 0.25, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]]]])
    image, sinks = torch.tensor([[0, 1, 1, 0]]).bool(), torch.tensor([[1, 1, 0, 0]]).bool()
    ratio = metrics.nonsink_ratio(pattern, image, sinks)
    assert ratio[0, 0, 0].item() == pytest.approx(1 / 3)
    assert ratio[0, 0, 1].isnan()
    assert metrics.nonsink_ratio(pattern, image, torch.zeros_like(sinks))[0, 0, 0] == 1


ROW = torch.tensor([[[[0.4, 0.2, 0.3, 0.1]]]])  # of a question, on BOS, two image tokens and itself


ON_IMAGE = torch.tensor([[False, True, True, False]])


@pytest.mark.parametrize(
    ("sinks", "rho", "rule", "expected"),
    [
        ([0], 0.5, "leave", [0.4, 0.2, 0.3, 0.1]),  # as the released code: no visual sink, nothing moves
        ([0], 0.5, "move", [0.2, 0.28, 0.42, 0.1]),  # the formula as it is printed
        ([0, 2], 0.3, "leave", [0.2, 0.55, 0.15, 0.1]),
        ([0, 2], 0.3, "move", [0.2, 0.55, 0.15, 0.1]),
        ([0, 2], 0.5, "move", [0.4, 0.2, 0.3, 0.1]),  # too little of its attention on the image is on other tokens
    ],
)
def test_var_of_one_row_by_hand(sinks, rho, rule, expected):
    chosen = torch.zeros(1, 4, dtype=torch.bool)
    chosen[0, sinks] = True
    where = {"image": ON_IMAGE, "sinks": chosen}
    heads = metrics.image_centric(ROW, rho=rho, mass=0.2, without_visual_sinks=rule, **where)
    moved = metrics.redistribute_sinks(ROW, p=0.5, heads=heads, **where)
    torch.testing.assert_close(moved, torch.tensor(expected).expand_as(moved))


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("image", [0.2, 0.55, 0.15, 0.1]),
        ("text", [0.2, 0.2, 0.15, 0.45]),
        ("all", [0.2, 0.2 + 0.35 * 2 / 3, 0.15, 0.1 + 0.35 / 3]),
    ],
)
def test_who_takes_what_sinks_give_by_hand(to, expected):
    """The BOS and an image token give .35; the other image token and the question's own token are there to take."""
    sinks, heads = torch.tensor([[True, False, True, False]]), torch.ones(1, 1, 1, dtype=torch.bool)
    moved = metrics.redistribute_sinks(ROW, image=ON_IMAGE, sinks=sinks, p=0.5, heads=heads, to=to)
    torch.testing.assert_close(moved, torch.tensor(expected).expand_as(moved))


def test_other_rules_are_refused():
    with pytest.raises(ValueError, match="to = 'sinks' is none of image, text, all"):
        metrics.sink_columns(ON_IMAGE, ON_IMAGE, to="sinks")
    with pytest.raises(ValueError, match="without_visual_sinks"):
        metrics.image_centric(ROW, image=ON_IMAGE, sinks=ON_IMAGE, rho=0.5, mass=0.2, without_visual_sinks="stay")


@quick
@given(seeds, st.floats(0, 1), st.booleans(), st.sampled_from(["image", "text", "all"]))
def test_edits_in_place_equal_the_slow_way(seed, share, longer, to):
    """With fewer known columns than the pattern has, as while decoding, and without."""
    pattern, _ = ragged("left", seed, pad=0.0)
    known = SIZE - 2 if longer else SIZE
    image, sinks = (torch.rand(2, 3, known, generator=generator(seed)) < 0.4).unbind()
    by_head = torch.rand(3, 3, known, generator=generator(seed + 1)) < 0.3
    wide = [torch.nn.functional.pad(x, (0, SIZE - known)) for x in (image, sinks, by_head)]
    heads = metrics.image_centric(pattern, image=image, sinks=sinks, rho=0.3, mass=0.1, without_visual_sinks="move")
    assert torch.equal(heads, slow_sinks.centric(pattern, image=wide[0], sinks=wide[1], rho=0.3, mass=0.1))
    takers = {"image": wide[0], "text": torch.nn.functional.pad(~image, (0, SIZE - known))}
    takers["all"] = takers["image"] | takers["text"]
    expected = slow_sinks.redistributed(pattern, image=wide[0], sinks=wide[1], p=share, heads=heads, takers=takers[to])
    place = pattern.clone()
    new = metrics.redistribute_sinks(place, image=image, sinks=sinks, p=share, heads=heads, to=to, out=place)
    assert new is place
    torch.testing.assert_close(new, expected)
    columns = metrics.sink_columns(image, sinks, to=to, without_visual_sinks="move")
    at_once = metrics.redistribute_centric(pattern.clone(), columns, p=share, rho=0.3, mass=0.1)
    torch.testing.assert_close(at_once, expected)
    place = pattern.clone()
    assert metrics.calibrate_sinks(place, by_head, share, out=place) is place
    torch.testing.assert_close(place, slow_sinks.calibrated(pattern, wide[2], share))
    with pytest.raises(ValueError, match="in place"):
        metrics.calibrate_sinks(pattern.half(), by_head, share, out=pattern.half())


def redistributed(side: str, p: float, seed: int = 0, heads: Tensor | None = None, dtype=torch.float32):
    pattern, mask = ragged(side, seed, pad=0.0)
    image, sinks = chosen_columns(mask, 1, 2, 3, 4), chosen_columns(mask, 0, 2)
    rows = torch.ones(pattern.shape[:3], dtype=torch.bool) if heads is None else heads
    edited = metrics.redistribute_sinks(pattern.to(dtype), image=image, sinks=sinks, p=p, heads=rows)
    return pattern, edited, mask, image, sinks


@pytest.mark.parametrize("side", ["left", "right"])
def test_redistribute_sinks_against_a_loop(side):
    pattern, edited, mask, image, sinks = redistributed(side, 0.6)
    for b, h, q in ((b, h, q) for b in range(3) for h in range(3) for q in range(SIZE)):
        row, takers = pattern[b, h, q], image[b] & ~sinks[b]
        expected = row.clone()
        if row[takers].sum() > 0:
            expected[sinks[b]] *= 0.4
            expected[takers] *= 1 + 0.6 * row[sinks[b]].sum() / row[takers].sum()
        torch.testing.assert_close(edited[b, h, q], expected)
    other_side = redistributed("left" if side == "right" else "right", 0.6)
    assert_lists_close(real_part(edited, mask, 2, 3), real_part(other_side[1], other_side[2], 2, 3))


@quick
@given(seeds, st.floats(0, 1))
def test_redistribute_sinks_keeps_row_sums_and_touches_chosen_rows_only(seed, p):
    heads = torch.rand(3, 3, SIZE, generator=generator(seed)) < 0.5
    pattern, edited, _, image, sinks = redistributed("left", p, seed, heads)
    torch.testing.assert_close(edited.sum(-1), pattern.sum(-1))
    assert torch.equal(edited[~heads], pattern[~heads])
    assert ((edited >= 0) & (edited <= 1 + 1e-6)).all()
    neither = ~(image | sinks)[:, None, None].expand_as(pattern)
    assert torch.equal(edited[neither], pattern[neither])
    without = metrics.attention_share(pattern, image & ~sinks) == 0
    assert torch.equal(edited[without], pattern[without])


def test_redistribute_sinks_at_the_ends_of_p():
    pattern, same, *_ = redistributed("left", 0)
    assert torch.equal(pattern, same)
    pattern, edited, _, image, sinks = redistributed("left", 1)
    changed = metrics.attention_share(pattern, image & ~sinks) > 0
    assert (metrics.attention_share(edited, sinks)[changed] == 0).all()
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="outside"):
            redistributed("left", p)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_edits_keep_the_dtype_and_stay_close(dtype):
    _, edited, *_ = redistributed("left", 0.6)
    _, low, *_ = redistributed("left", 0.6, dtype=dtype)
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), edited, atol=2e-2, rtol=2e-2)


@quick
@given(seeds, st.floats(0, 1))
def test_calibrate_sinks_laws(seed, beta):
    pattern, mask = ragged("left", seed, pad=0.0)
    sinks = (torch.rand(3, 3, SIZE, generator=generator(seed)) < 0.3) & mask[:, None]
    edited = metrics.calibrate_sinks(pattern, sinks, beta)
    torch.testing.assert_close(edited.sum(-1), pattern.sum(-1))
    on_sinks = (pattern * sinks[:, :, None]).sum(-1)
    others = pattern.sum(-1) - on_sinks > 1e-6
    after = (edited * sinks[:, :, None]).sum(-1)
    torch.testing.assert_close(after[others], beta * on_sinks[others])
    stuck = (pattern * ~sinks[:, :, None]).sum(-1) == 0
    assert torch.equal(edited[stuck], pattern[stuck])
    assert (edited[pattern == 0] == 0).all()  # what the mask excluded stays excluded
    assert torch.equal(metrics.calibrate_sinks(pattern, sinks, 1), pattern)


def test_calibrate_sinks_by_hand():
    pattern = torch.tensor([[[[0.5, 0.5, 0.0], [0.6, 0.3, 0.1]]]])
    sinks = torch.tensor([[[True, False, False]]])
    expected = torch.tensor([[[[0.2, 0.8, 0.0], [0.24, 0.57, 0.19]]]])
    torch.testing.assert_close(metrics.calibrate_sinks(pattern, sinks, 0.4), expected)
    for beta in (-0.1, 1.5):
        with pytest.raises(ValueError, match="outside"):
            metrics.calibrate_sinks(pattern, sinks, beta)
