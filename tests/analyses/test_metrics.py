"""Laws of the metrics: hand-computed cases, brute force, padding, permutation, scale, bounds, dtype."""

import math
import statistics

import pytest
import torch
from crosslens.analyses import metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ..helpers import slow_sinks

# Under pytest the annotations are checked first: a wrong shape is then a TypeError of the type checker.
BAD_SHAPE = (ValueError, TypeError)
LENGTHS = [12, 7, 3]
SIZE = 12
quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10_000)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ragged(side: str, seed: int = 0, heads: int = 3, pad: float = math.nan) -> tuple[Tensor, Tensor]:
    """Causal patterns of examples with LENGTHS tokens, padded on one side; `pad` in the rows of padding."""
    pattern = torch.zeros(len(LENGTHS), heads, SIZE, SIZE)
    mask = torch.zeros(len(LENGTHS), SIZE, dtype=torch.bool)
    rng = generator(seed)
    for i, n in enumerate(LENGTHS):
        scores = 2 * torch.randn(heads, n, n, generator=rng)
        real = slice(SIZE - n, SIZE) if side == "left" else slice(0, n)
        causal = torch.ones(n, n, dtype=torch.bool).tril()
        pattern[i, :, real, real] = scores.masked_fill(~causal, -torch.inf).softmax(-1)
        mask[i, real] = True
        pattern[i, :, ~mask[i]] = pad
    return pattern, mask


def real_part(x: Tensor, mask: Tensor, *dims: int) -> list[Tensor]:
    """Each example's values at real positions, so that padding sides can be compared."""
    parts = []
    for row, keep in zip(x, mask, strict=True):
        for dim in dims:
            row = row.index_select(dim - 1, keep.nonzero()[:, 0])
        parts.append(row)
    return parts


def assert_lists_close(a: list[Tensor], b: list[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, equal_nan=True)


def chosen_columns(mask: Tensor, *offsets: int) -> Tensor:
    """Columns by their distance from the first real token."""
    place = mask.cumsum(1) - 1
    return mask & sum((place == offset for offset in offsets), torch.zeros_like(mask))


# ---------------------------------------------------------------- visibility


@pytest.mark.parametrize("side", ["left", "right"])
def test_first_real_token_and_visibility_follow_the_mask(side):
    _, mask = ragged(side)
    first = metrics.first_real(mask)
    starts = [SIZE - n if side == "left" else 0 for n in LENGTHS]
    assert first.nonzero().tolist() == [[i, start] for i, start in enumerate(starts)]
    visible = metrics.causal_visibility(mask)
    assert visible.sum((1, 2)).tolist() == [n * (n + 1) // 2 for n in LENGTHS]
    assert not visible.triu(1).any()


# ---------------------------------------------------------------- vision-aware heads


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


# ---------------------------------------------------------------- sinks in the residual


def planted_resid(seed: int = 0) -> tuple[Tensor, Tensor]:
    resid = 0.1 * torch.randn(3, 2, 5, 16, generator=generator(seed))
    mask = torch.tensor([[True] * 5, [False, False, True, True, True]])
    resid[1, 0, 0, 7] = -900.0
    resid[2, 1, 2, 3] = 500.0
    resid[1, 1, 0, 11] = 5000.0  # at padding
    return resid, mask


def test_sink_dimensions_finds_what_was_planted_largest_first():
    resid, mask = planted_resid()
    assert metrics.sink_dimensions(resid, mask) == [7, 3]
    assert metrics.sink_dimensions(resid, mask, max_dims=1) == [7]
    assert metrics.sink_dimensions(resid, mask, min_abs=600) == [7]
    assert metrics.sink_dimensions(resid, mask, min_ratio=1e6) == []
    assert metrics.sink_dimensions(resid, torch.ones_like(mask)) == [11, 7, 3]
    assert metrics.sink_dimensions(resid.bfloat16(), mask) == [7, 3]
    assert metrics.sink_dimensions(resid.half(), mask) == [7, 3]


def test_sink_dimensions_finds_nothing_where_nothing_is():
    resid = 200 * torch.randn(3, 2, 5, 16, generator=generator(1))
    assert metrics.sink_dimensions(resid, torch.ones(2, 5, dtype=torch.bool)) == []


def test_streamed_peaks_give_the_same_dimensions():
    resid, mask = planted_resid()
    halves = [[metrics.dimension_peaks(layer[i : i + 1], mask[i : i + 1]) for layer in resid] for i in (0, 1)]
    peaks = torch.stack([torch.stack([peak for peak, _ in half]) for half in halves]).amax(0)
    medians = torch.stack([torch.stack([median for _, median in half]) for half in halves]).mean(0)
    assert metrics.massive_dimensions(peaks, medians) == [7, 3]


def test_sink_dimensions_refuses_nonsense():
    resid, mask = planted_resid()
    with pytest.raises(ValueError, match="no real token"):
        metrics.sink_dimensions(resid, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="max_dims"):
        metrics.sink_dimensions(resid, mask, max_dims=0)
    with pytest.raises(BAD_SHAPE):
        metrics.sink_dimensions(resid[0], mask)
    with pytest.raises(BAD_SHAPE):
        metrics.sink_dimensions(resid, mask.long())


def test_sink_values_by_hand_and_against_a_loop():
    one_hot = torch.zeros(1, 1, 16)
    one_hot[..., 3] = -50.0
    assert metrics.sink_values(one_hot, [3]).item() == pytest.approx(4.0)
    assert metrics.sink_values(one_hot, [2]).item() == 0.0
    x = torch.randn(2, 3, 16, generator=generator(0))
    phi = metrics.sink_values(x, (1, 5), eps=0.5)
    for b in range(2):
        for p in range(3):
            rms = math.sqrt(float((x[b, p] ** 2).mean()) + 0.5)
            assert phi[b, p].item() == pytest.approx(max(abs(x[b, p, 1]), abs(x[b, p, 5])).item() / rms)


@quick
@given(seeds, st.floats(0.1, 100))
def test_sink_values_are_bounded_and_blind_to_scale(seed, scale):
    x = torch.randn(2, 3, 8, generator=generator(seed)) ** 5
    phi = metrics.sink_values(x, range(8), eps=0.0)
    assert ((phi >= 1 - 1e-5) & (phi <= math.sqrt(8) + 1e-5)).all()
    torch.testing.assert_close(metrics.sink_values(scale * x, range(8), eps=0.0), phi)
    share = metrics.energy_share(phi, 8)
    torch.testing.assert_close(share, x.square().amax(-1) / x.square().sum(-1))


def test_sink_values_of_float16_do_not_overflow():
    x = torch.zeros(1, 1, 16, dtype=torch.float16)
    x[..., 0] = 60000.0
    phi = metrics.sink_values(x, [0])
    assert phi.dtype == torch.float32
    assert phi.item() == pytest.approx(4.0)


@pytest.mark.parametrize("dims", [[], [16], [-1]])
def test_sink_values_refuse_dimensions_that_are_not_there(dims):
    with pytest.raises(ValueError, match="dims"):
        metrics.sink_values(torch.zeros(1, 1, 16), dims)


def test_gap_threshold_is_the_geometric_mean():
    assert metrics.gap_threshold(20.0, 0.2) == pytest.approx(2.0)
    for bad in ((0.0, 1.0), (1.0, -1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="positive"):
            metrics.gap_threshold(*bad)


# ---------------------------------------------------------------- sinks in the pattern


def brute_column_means(pattern: Tensor, mask: Tensor, min_queries: int = 1) -> Tensor:
    out = torch.full((pattern.shape[0], pattern.shape[1], pattern.shape[3]), math.nan)
    for b, h, k in ((b, h, k) for b in range(out.shape[0]) for h in range(out.shape[1]) for k in range(SIZE)):
        seen = [float(pattern[b, h, q, k]) for q in range(SIZE) if mask[b, q] and mask[b, k] and q >= k]
        if len(seen) >= min_queries:
            out[b, h, k] = sum(seen) / len(seen)
    return out


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0.0, 0.5, math.nan])
def test_column_attention_equals_loops_whatever_padding_rows_hold(side, pad):
    pattern, mask = ragged(side, pad=pad)
    found = metrics.column_attention(pattern, mask)
    torch.testing.assert_close(found, brute_column_means(pattern, mask), equal_nan=True)


def test_column_attention_by_hand():
    pattern = torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert metrics.column_attention(pattern, mask).tolist() == [[[0.625, 0.75]]]


def test_column_attention_does_not_depend_on_padding_side_or_batch():
    (left, left_mask), (right, right_mask) = ragged("left"), ragged("right")
    a = real_part(metrics.column_attention(left, left_mask), left_mask, 2)
    b = real_part(metrics.column_attention(right, right_mask), right_mask, 2)
    assert_lists_close(a, b)
    alone = [metrics.column_attention(left[i : i + 1], left_mask[i : i + 1])[0] for i in range(len(LENGTHS))]
    assert_lists_close(alone, list(metrics.column_attention(left, left_mask)))


def test_column_attention_in_a_sliding_window_and_on_chosen_rows():
    _, mask = ragged("left")
    place = torch.arange(SIZE)
    visible = metrics.causal_visibility(mask) & (place[:, None] - place < 3)
    uniform = (visible / visible.sum(-1, keepdim=True).clamp_min(1))[:, None]
    by_window = metrics.column_attention(uniform, mask, visible)
    assert by_window[0, 0, 3].item() == pytest.approx(1 / 3)
    rows = [4, 9]
    found = metrics.column_attention(uniform[:, :, rows], mask, visible[:, rows])
    assert found[0, 0, 3].item() == pytest.approx(1 / 3)
    assert found[0, 0, 5].isnan()
    with pytest.raises(ValueError, match="visible"):
        metrics.column_attention(uniform[:, :, rows], mask)


def test_attention_share_against_a_loop():
    pattern, mask = ragged("left", pad=0.0)
    columns = chosen_columns(mask, 0, 2)
    found = metrics.attention_share(pattern, columns)
    torch.testing.assert_close(found, (pattern * columns[:, None, None]).sum(-1))
    both = found + metrics.attention_share(pattern, mask & ~columns)
    torch.testing.assert_close(both, mask[:, None].float().expand_as(both))
    assert (metrics.attention_share(pattern, torch.zeros_like(mask)) == 0).all()


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


def test_image_centric_refuses_another_rule():
    with pytest.raises(ValueError, match="without_visual_sinks"):
        metrics.image_centric(ROW, image=ON_IMAGE, sinks=ON_IMAGE, rho=0.5, mass=0.2, without_visual_sinks="stay")


@quick
@given(seeds, st.floats(0, 1), st.booleans())
def test_edits_in_place_equal_the_slow_way(seed, share, longer):
    """With fewer known columns than the pattern has, as while decoding, and without."""
    pattern, _ = ragged("left", seed, pad=0.0)
    known = SIZE - 2 if longer else SIZE
    image, sinks = (torch.rand(2, 3, known, generator=generator(seed)) < 0.4).unbind()
    by_head = torch.rand(3, 3, known, generator=generator(seed + 1)) < 0.3
    wide = [torch.nn.functional.pad(x, (0, SIZE - known)) for x in (image, sinks, by_head)]
    heads = metrics.image_centric(pattern, image=image, sinks=sinks, rho=0.3, mass=0.1, without_visual_sinks="move")
    assert torch.equal(heads, slow_sinks.centric(pattern, image=wide[0], sinks=wide[1], rho=0.3, mass=0.1))
    expected = slow_sinks.redistributed(pattern, image=wide[0], sinks=wide[1], p=share, heads=heads)
    place = pattern.clone()
    new = metrics.redistribute_sinks(place, image=image, sinks=sinks, p=share, heads=heads, out=place)
    assert new is place
    torch.testing.assert_close(new, expected)
    columns = metrics.sink_columns(image, sinks, without_visual_sinks="move")
    at_once = metrics.redistribute_centric(pattern.clone(), columns, p=share, rho=0.3, mass=0.1)
    torch.testing.assert_close(at_once, expected)
    place = pattern.clone()
    assert metrics.calibrate_sinks(place, by_head, share, out=place) is place
    torch.testing.assert_close(place, slow_sinks.calibrated(pattern, wide[2], share))
    with pytest.raises(ValueError, match="in place"):
        metrics.calibrate_sinks(pattern.half(), by_head, share, out=pattern.half())


def test_vhr_by_hand_with_and_without_the_filter():
    vhd, norms = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([1.0, 1.0, 1.0, 9.0])
    assert metrics.reinforced_heads(vhd, norms).nonzero()[:, 0].tolist() == [1, 2]
    assert metrics.reinforced_heads(vhd, norms, filter=False).nonzero()[:, 0].tolist() == [2, 3]


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


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("min_queries", [1, 4])
def test_hidden_sinks_equal_loops(side, min_queries):
    pattern, mask = ragged(side)
    means = brute_column_means(pattern, mask, min_queries)
    expected = (means > 0.2) & ~metrics.first_real(mask)[:, None]
    found = metrics.hidden_sinks(pattern, mask, threshold=0.2, min_queries=min_queries)
    assert torch.equal(found, expected)
    assert found.any()


def test_hidden_sinks_by_default_ignore_columns_that_few_queries_see():
    pattern = torch.eye(SIZE).expand(1, 1, SIZE, SIZE).clone()
    pattern[:, :, 2:, :] = 0.0
    pattern[:, :, 2:, 1] = 1.0
    mask = torch.ones(1, SIZE, dtype=torch.bool)
    assert metrics.hidden_sinks(pattern, mask, threshold=0.1).nonzero().tolist() == [[0, 0, 1]]
    own = torch.eye(SIZE).expand(1, 1, SIZE, SIZE)
    assert not metrics.hidden_sinks(own, mask, threshold=0.5).any()
    assert metrics.hidden_sinks(own, mask, threshold=0.5, min_queries=1)[0, 0].tolist() == [False] * 11 + [True]


def test_hidden_sinks_take_a_threshold_per_example_and_follow_heads():
    pattern, mask = ragged("left")
    limits = 2 / mask.sum(1)
    found = metrics.hidden_sinks(pattern, mask, threshold=limits, min_queries=2)
    for i, limit in enumerate(limits.tolist()):
        alone = metrics.hidden_sinks(pattern[i : i + 1], mask[i : i + 1], threshold=limit, min_queries=2)
        assert torch.equal(found[i : i + 1], alone)
    order = [2, 0, 1]
    permuted = metrics.hidden_sinks(pattern[:, order], mask, threshold=limits, min_queries=2)
    assert torch.equal(permuted, found[:, order])


def test_hidden_sinks_refuse_nonsense():
    pattern, mask = ragged("left")
    for options in ({"threshold": -1.0}, {"threshold": 0.1, "min_queries": 0}):
        with pytest.raises(ValueError, match=r"negative|min_queries"):
            metrics.hidden_sinks(pattern, mask, **options)
    with pytest.raises(BAD_SHAPE):
        metrics.hidden_sinks(pattern, mask[:, 1:], threshold=0.1)
    with pytest.raises(BAD_SHAPE):
        metrics.hidden_sinks(pattern, mask.long(), threshold=0.1)


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


# ---------------------------------------------------------------- lenses


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


# ---------------------------------------------------------------- effects


def test_percent_change():
    after, before = torch.tensor([0.5, 3.0, 1.0]), torch.tensor([1.0, 2.0, 0.0])
    change = metrics.percent_change(after, before)
    assert change[:2].tolist() == [-50.0, 50.0]
    assert change[2].isnan()
    assert metrics.percent_change(torch.ones(4, 3), before).shape == (4, 3)
    assert metrics.percent_change(0.4, 1).item() == pytest.approx(-60)
    with pytest.raises(ValueError, match="broadcast"):
        metrics.percent_change(after, torch.ones(2))


def test_normalized_effect_takes_means_first():
    clean, donor = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 9.0])
    assert metrics.normalized_effect(clean, clean, donor).item() == 0
    assert metrics.normalized_effect(donor, clean, donor).item() == 1
    # The mean of ratios would be (1/1 + 0/7)/2 = 0.5.
    assert metrics.normalized_effect(torch.tensor([1.0, 2.0]), clean, donor).item() == pytest.approx(1 / 8)
    assert metrics.normalized_effect(torch.zeros(5, 4, 2), clean, donor).shape == (5, 4)
    assert metrics.normalized_effect(donor, clean, clean).isnan()


def test_normalized_effect_leaves_missing_examples_out_of_every_mean():
    clean, donor = torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0, 9.0, 3.0])
    patched = torch.tensor([[1.0, 4.0, math.nan], [math.nan] * 3])
    found = metrics.normalized_effect(patched, clean, donor)
    torch.testing.assert_close(found[0], metrics.normalized_effect(patched[0, :2], clean[:2], donor[:2]))
    assert found[1].isnan()
    with pytest.raises(BAD_SHAPE):
        metrics.normalized_effect(patched, clean[:2], donor)
    with pytest.raises(BAD_SHAPE):
        metrics.normalized_effect(patched[:, :0], clean[:0], donor[:0])


@quick
@given(seeds, st.floats(0.1, 10), st.floats(-5, 5))
def test_normalized_effect_is_affine_invariant(seed, scale, shift):
    rng = generator(seed)
    patched, clean = torch.randn(3, 4, generator=rng), torch.randn(4, generator=rng)
    donor = clean + 1 + torch.rand(4, generator=rng)
    moved = [scale * x + shift for x in (patched, clean, donor)]
    expected = metrics.normalized_effect(patched, clean, donor)
    torch.testing.assert_close(metrics.normalized_effect(*moved), expected, rtol=1e-3, atol=1e-3)


def test_top_heads_by_size_of_either_sign_with_ties_in_order():
    effects = torch.tensor([[0.1, -0.9, 0.5], [0.5, 0.0, -0.5]])
    assert metrics.top_heads(effects, 0.5) == [(0, 1), (0, 2), (1, 0)]
    assert metrics.top_heads(effects, 0.001) == [(0, 1)]
    assert metrics.top_heads(effects, 1) == [(0, 1), (0, 2), (1, 0), (1, 2), (0, 0), (1, 1)]
    assert metrics.top_heads(effects.half(), 0.5) == [(0, 1), (0, 2), (1, 0)]
    assert len(metrics.top_heads(torch.zeros(30, 9), 0.02)) == 5
    for share in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="share"):
            metrics.top_heads(effects, share)
    with pytest.raises(ValueError, match="NaN"):
        metrics.top_heads(torch.full((2, 2), math.nan), 0.5)
    with pytest.raises(BAD_SHAPE):
        metrics.top_heads(effects[0], 0.5)
