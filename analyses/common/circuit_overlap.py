"""The overlap of two circuits: heads in common, their exact null, and the most that noise lets two samples share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

Array = NDArray[Any]
Head = tuple[int, int]
CEILING_DRAWS = 200


@dataclass(frozen=True)
class CircuitOverlap:
    """How far two tasks share their heads; made by `circuit_overlap`.

    share: in-circuit heads common to both / heads of one circuit, 0…1.
    jaccard: common heads / heads in either, 0…1.
    heads: the common heads, (layer, head) in order.
    ceiling: the share that two samples as large as these, of one and the same task, have in common (mean over draws
    and over the tasks given); ceiling_lower, ceiling_upper: 95 % of these draws. NaN without halves.
    p_value: chance of as large an overlap if heads are exchangeable within layers.
    p_hypergeometric: the same if all heads are exchangeable; ignores that circuits sit at some depth.
    """

    share: float
    jaccard: float
    heads: list[tuple[int, int]]
    ceiling: float
    ceiling_lower: float
    ceiling_upper: float
    p_value: float
    p_hypergeometric: float


Halves = tuple[ArrayLike, ArrayLike]


def circuit_overlap(
    effects_a: ArrayLike,
    effects_b: ArrayLike,
    *,
    share: float = 0.02,
    halves_a: Halves | None = None,
    halves_b: Halves | None = None,
) -> CircuitOverlap:
    """Overlap of two tasks' circuits: the max(1, round(share · L · H)) heads of largest |effect| of each.

    effects_a, effects_b: [layer, head] of one model, any unit; tensors are welcome.
    halves_a, halves_b: effect maps of two halves of one task's groups; they set the ceiling noise leaves.
    p_value: with a_l and b_l in-circuit heads in layer l of H, the layer's overlap is hypergeometric
    (H, a_l, b_l); the layers' distributions are convolved (exact), p = P(overlap ≥ observed).
    Source: arXiv 2310.08744 (overlap; there circuits pool the top 2 % of each path-patching stage, here a
    flat share of one map). The p-values and the ceiling are added here.
    A layer of NaN alone has no heads: it is left out, and L counts the others.
    Errors: ValueError for unequal or non-2-D shapes, other NaN effects, share outside (0, 1].
    """
    a, b = _circuit(effects_a, share), _circuit(effects_b, share)
    if a.shape != b.shape:
        raise ValueError(f"effects have shapes {a.shape} and {b.shape}: two models cannot be compared")
    common = a & b
    n_common, size = int(common.sum()), int(a.sum())
    ceiling, lowest, highest = _ceiling([halves for halves in (halves_a, halves_b) if halves is not None], share)
    return CircuitOverlap(
        share=n_common / size,
        jaccard=n_common / int((a | b).sum()),
        heads=[(int(layer), int(head)) for layer, head in np.argwhere(common)],
        ceiling=ceiling,
        ceiling_lower=lowest,
        ceiling_upper=highest,
        p_value=_overlap_p(a.sum(1), b.sum(1), a.shape[1], n_common),
        p_hypergeometric=float(distributions.hypergeom.sf(n_common - 1, _n_heads(effects_a), size, size)),
    )


def _plain(effects: Any) -> Array:
    """[layer, head] as float64; a torch tensor, perhaps in half precision or with a gradient, too."""
    effects = effects.detach().cpu().double().numpy() if hasattr(effects, "detach") else np.asarray(effects, float)
    if effects.ndim != 2 or effects.size == 0:
        raise ValueError(f"effects has shape {effects.shape}, expected [layer, head]")
    return effects


def _circuit(effects: Any, share: float) -> Array:
    """Bool[layer, head]: the same choice as `metrics.top_heads`, ties to the lower layer, then head."""
    effects = np.abs(_plain(effects))
    missing = np.isnan(effects).any(1)
    if not np.array_equal(missing, np.isnan(effects).all(1)) or missing.all() or not 0 < share <= 1:
        raise ValueError(f"effects holds NaN, or share = {share} is outside (0, 1]")
    return _top(effects[None], share)[0]


def _n_heads(effects: Any) -> int:
    """The heads that there are."""
    return int((~np.isnan(_plain(effects))).sum())


def _top(magnitudes: Array, share: float) -> Array:
    """Bool[draws, layer, head]: the largest of each draw."""
    flat = np.nan_to_num(magnitudes, nan=-1.0).reshape(len(magnitudes), -1)
    size = max(1, round(share * _n_heads(magnitudes[0])))
    chosen = np.zeros(flat.shape, bool)
    np.put_along_axis(chosen, np.argsort(-flat, axis=1, kind="stable")[:, :size], True, axis=1)
    return chosen.reshape(magnitudes.shape)


def overlap_distribution(a: ArrayLike, b: ArrayLike, n_heads: int) -> Array:
    """P(overlap = 0, 1, …) of two circuits with a_l and b_l heads in layer l of `n_heads`, exchangeable within layers.

    a, b: counts [layer]. The layers' hypergeometric overlaps are independent; their distributions are convolved.
    Errors: ValueError for unequal lengths.
    """
    total = np.ones(1)
    for a_l, b_l in zip(np.asarray(a), np.asarray(b), strict=True):
        if a_l and b_l:
            layer = distributions.hypergeom.pmf(np.arange(min(a_l, b_l) + 1), n_heads, a_l, b_l)
            total = np.convolve(total, layer)
    return total


def heads_in_common(first: Collection[Head], second: Collection[Head], shape: tuple[int, int]) -> dict[str, Any]:
    """A row of two sets of heads: how many they have in common (value: as a share of the smaller set), what sets with
    as many heads in every layer have (expected, and 95 % of that exact distribution), the chance of as many, and the
    least chance that any number could have.

    shape: (layers, heads). Errors: ValueError for an empty set.
    """
    if not first or not second:
        raise ValueError("a set of heads is empty")
    by_layer = [np.bincount([layer for layer, _ in heads], minlength=shape[0]) for heads in (first, second)]
    null = overlap_distribution(*by_layer, n_heads=shape[1])
    size, common = min(len(first), len(second)), len({*first} & {*second})
    low, high = (int(np.searchsorted(null.cumsum(), q)) / size for q in (0.025, 0.975))
    return {
        "heads": size,
        "common": common,
        "value": common / size,
        "lower": low,
        "upper": high,
        "unit": "share in common",
        "expected": float(null @ np.arange(len(null))) / size,
        "p_value": float(min(1.0, null[common:].sum())),
        "p_least": float(null[-1]),
    }


def above_depth(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Of a row of `heads_in_common` with its n: the share in common minus what depth gives, between the bounds of that
    null; half a head beyond, since heads are whole: at the end of the range is not behind it.
    """
    half = 0.5 / row["heads"]
    found = {"value": row["value"] - row["expected"], "unit": "share of heads above depth"}
    found |= {"lower": row["value"] - row["upper"] - half, "upper": row["value"] - row["lower"] + half}
    return found | {"n": row["n"], "n_groups": row["n_groups"]}


def _overlap_p(a: Array, b: Array, n_heads: int, observed: int) -> float:
    """P(overlap ≥ observed) under `overlap_distribution`."""
    return float(min(1.0, overlap_distribution(a, b, n_heads)[observed:].sum()))


def _ceiling(tasks: Sequence[Halves], share: float) -> tuple[float, float, float]:
    """(mean, lower, upper) of the overlap of two samples of one task, as large as the whole one.

    A half has half the examples, so its noise is too large by √2: the half difference of the halves has the spread of
    the whole map's error. It is put twice, drawn anew, on the mean map. The mean map stands for the truth, which it
    exaggerates a little: the ceiling is rather too high than too low.
    """
    if not tasks:
        return float("nan"), float("nan"), float("nan")
    drawn = np.concatenate([_replicated(_plain(first), _plain(second), share) for first, second in tasks])
    return float(drawn.mean()), float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def _replicated(first: Array, second: Array, share: float) -> Array:
    """[draws]: the share of heads that two replicates have in common."""
    rng = np.random.default_rng(0)
    mean, error = (first + second) / 2, np.abs(first - second) / 2
    a, b = (_top(np.abs(mean + error * rng.normal(size=(CEILING_DRAWS, *mean.shape))), share) for _ in range(2))
    return (a & b).sum((1, 2)) / a.sum((1, 2))
