"""What the claims of redundancy are about: cheap numbers against the cost of leaving modules out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.agreement import spearman
from ..common.tested import nothing, number
from ._importance import INSIDE, KINDS, SHARES
from ._skips import LEFT_OUT, ORDERS

ORTHOGONAL, NORM = "an orthogonal update of equal norm", "the norm of the update"
PREDICTORS = ("1 − cos", ORTHOGONAL, "depth, the deepest first")
NATS, RANKS = "nats a token", "rank correlation"
DRAWS = 400
MOST = 3 / 16  # of the dimensions of z: 768 of 4096
Array = np.ndarray[Any, Any]


def _cost(rows: Rows, name: str) -> Array:
    """Loss more than clean, [n, layers]."""
    return rows[name][..., 0] - rows["clean"][:, None, 0]


def _cells(rows: Rows, kinds: tuple[str, ...]) -> Array:
    """[n, 4, cells]: what PREDICTORS say, and what leaving the module out costs, of the modules that there are."""
    found = []
    for kind in kinds:
        own, cost = rows["turned"][:, :, KINDS.index(kind)], _cost(rows, f"skip|{kind}")
        depth = np.broadcast_to(-np.arange(cost.shape[1], dtype=float), cost.shape)
        found.append(np.stack([own[..., 0], own[..., 1], depth, cost], 1))
    cells = np.concatenate(found, 2)
    return cells[:, :, ~np.isnan(cells).any((0, 1))]


def _counts(rows: Rows) -> dict[str, int]:
    return {"n": len(rows.examples), "n_groups": rows.examples["group"].nunique()}


def _estimated(
    values: Array, rows: Rows, statistic: Callable[[Array], Array], draws: int = DRAWS
) -> list[dict[str, float]]:
    """value, lower, upper of each number that `statistic` makes of means."""
    found = stats.bootstrap_statistic(values, rows.examples["group"], statistic, n_boot=draws)
    return [dict(zip(("value", "lower", "upper"), map(float, one), strict=True)) for one in zip(*found, strict=True)]


def predictions(rows: Rows, how: How) -> pd.DataFrame | None:
    """Rank correlation over layers of what is cheap to know with what leaving a module out costs."""
    frames = []
    every = {kind: (kind,) for kind in KINDS} | {"attention and MLP": ("attention", "MLP")}
    for part, kinds in every.items():
        if all(f"skip|{kind}" in rows.values for kind in kinds):
            cells = _cells(rows, kinds)
            found = _estimated(cells, rows, lambda m: np.array([spearman(one, m[-1]) for one in m[:-1]]))
            for one, name in zip(found, PREDICTORS, strict=True):
                told = {"part": part, "predictor": name, "control": "" if name == PREDICTORS[0] else name}
                frames.append(told | one | {"unit": RANKS} | _counts(rows))
    return pd.DataFrame(frames) if frames else None


def _moments(rows: Rows, name: str) -> Array | None:
    """[n, 1 + layers, 2, d]: the last features and their squares, clean first."""
    if f"features|{name}" not in rows.values:
        return None
    both = np.concatenate([rows["features"][:, None], rows[f"features|{name}"]], 1).astype(float)
    both -= np.nan_to_num(rows["features"]).mean((0, 1))  # squares of what is left lose no digits
    return np.stack([both, both**2], 2)


def _transfers(mean: Array) -> Array:
    """|Δ entropy| of each layer: `metrics.transfer_entropy` from Σx and Σx²."""
    spread = np.maximum(mean[:, 1] - mean[:, 0] ** 2, np.finfo(float).tiny)
    entropy = 0.5 * np.log(spread).sum(-1)
    return np.abs(entropy[1:] - entropy[0])


def transfer(rows: Rows, name: str) -> stats.Estimate | None:
    """Transfer entropy of each layer's attention, nats, with an interval by groups; NaN in layers without. None with
    fewer than three examples.
    """
    moments = _moments(rows, name)
    if moments is None or len(moments) < 3:
        return None
    there = ~np.isnan(moments).any((0, 2, 3))
    found = stats.bootstrap_statistic(moments[:, there], rows.examples["group"], _transfers, n_boot=100)
    whole = [np.full(len(there) - 1, np.nan) for _ in found]
    for one, values in zip(whole, found, strict=True):
        one[there[1:]] = values
    return stats.Estimate(*whole)


def tested(rows: Rows, how: How) -> pd.DataFrame:
    """A row for each claim, and for each control of it."""
    made = (_predicts, _deep, _before, _third, _least, _entropy, _few, _vision)
    return pd.concat([frame for make in made for frame in make(rows)], ignore_index=True)


def _given(claim: str, estimate: dict[str, float], unit: str, rows: Rows, than: str = "") -> pd.DataFrame:
    """A row of `tested` of a number that is no mean over examples."""
    return pd.DataFrame([{"claim": claim, "than": than, "untestable": ""} | estimate | {"unit": unit} | _counts(rows)])


def _predicts(rows: Rows) -> list[pd.DataFrame]:
    claim = "importance predicts loss"
    if not {"skip|attention", "skip|MLP"} <= set(rows.values):
        return [nothing(claim, "this model has no attention or no MLPs to leave out")]

    def both(mean: Array) -> Array:
        own, null = (spearman(mean[i], mean[-1]) for i in (0, 1))
        return np.array([own, own - null])

    own, margin = _estimated(_cells(rows, ("attention", "MLP")), rows, both)
    return [_given(claim, own, RANKS, rows), _given(claim, margin, RANKS, rows, ORTHOGONAL)]


def _deep(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "deep attention is redundant", rows.examples["group"]
    if not {"skip|attention", "skip|MLP"} <= set(rows.values):
        return [nothing(claim, "this model has no attention or no MLPs to leave out")]
    attention, mlp = (_deep_minus_rest(_cost(rows, f"skip|{kind}")) for kind in ("attention", "MLP"))
    return [number(claim, attention, groups, NATS), number(claim, attention - mlp, groups, NATS, than="MLPs")]


def _deep_minus_rest(cost: Array) -> Array:
    half = cost.shape[1] // 2
    return np.nanmean(cost[:, half:], 1) - np.nanmean(cost[:, :half], 1)


def _left_out(rows: Rows, kind: str, order: str) -> Array:
    """What a third left out in an order costs, [n]."""
    curve = rows[f"curve|{kind}"][:, ORDERS.index(order), LEFT_OUT.index(1 / 3), 0]
    return curve - rows["clean"][:, 0]


def _before(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "attention before MLPs", rows.examples["group"]
    if not {"curve|attention", "curve|MLP"} <= set(rows.values):
        return [nothing(claim, "this model has no attention or no MLPs to leave out")]
    gaps = [_left_out(rows, "attention", order) - _left_out(rows, "MLP", order) for order in ORDERS[1:]]
    return [number(claim, gaps[0], groups, NATS), number(claim, gaps[0] - gaps[1], groups, NATS, than="a random third")]


def _third(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "a third of the attention", rows.examples["group"]
    if "curve|attention" not in rows.values:
        return [nothing(claim, "this model has no attention to leave out")]
    deep, random = (_left_out(rows, "attention", order) for order in ("deep first", "random"))
    return [number(claim, deep, groups, NATS), number(claim, deep - random, groups, NATS, than="a random third")]


def _least(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "the least important third", rows.examples["group"]
    if "curve|attention" not in rows.values:
        return [nothing(claim, "this model has no attention to leave out")]
    deep, least, random = (_left_out(rows, "attention", order) for order in ORDERS)
    margin = number(claim, least - deep, groups, NATS, than="the deepest third")
    return [number(claim, least - random, groups, NATS), margin]


def _entropy(rows: Rows) -> list[pd.DataFrame]:
    claim, moments = "entropy predicts loss", _moments(rows, "skip")
    width = 0 if moments is None else moments.shape[3]
    if moments is None or len(moments) < 3:
        return [nothing(claim, "an entropy over examples needs more of them")]
    cost, norm = _cost(rows, "skip|attention"), rows["turned"][:, :, KINDS.index("attention"), 1]
    there = ~np.isnan(moments).any((0, 2, 3))[1:]
    packed = np.concatenate(
        [
            moments.reshape(len(moments), len(there) + 1, -1)[:, [True, *there]].reshape(len(cost), -1),
            cost[:, there],
            norm[:, there],
        ],
        1,
    )
    count = int(there.sum())

    def both(mean: Array) -> Array:
        found = _transfers(mean[: -2 * count].reshape(count + 1, 2, width))
        costs, norms = mean[-2 * count : -count], mean[-count:]
        own = spearman(found, costs)
        return np.array([own, own - spearman(norms, costs)])

    own, margin = _estimated(packed, rows, both, 100)
    return [_given(claim, own, RANKS, rows), _given(claim, margin, RANKS, rows, NORM)]


def _few(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "few dimensions of z", rows.examples["group"]
    held = np.nanmean(rows["energy"][:, :, INSIDE.index("z"), SHARES.index(MOST)], 1)
    unit = "share of energy"
    return [number(claim, held, groups, unit), number(claim, held - MOST, groups, unit, than="equal energies")]


def _vision(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "layers for vision", rows.examples["group"].to_numpy()
    if "blind|block" not in rows.values:
        return [nothing(claim, "the prompts have no images")]
    excess = _cost(rows, "skip|block") - (rows["blind|block"][..., 0] - rows["blind clean"][:, None, 0])
    if len(np.unique(groups)) < 2:
        return [nothing(claim, "there are no two groups, one to choose layers on")]
    count = max(1, excess.shape[1] // 4)
    chosen, other = stats.chosen_on(excess, groups, lambda some: np.argsort(-some.mean(0), kind="stable")[:count])
    own = excess[other][:, chosen].mean(1)
    rest = np.delete(excess[other], chosen, 1).mean(1)
    return [
        number(claim, own, groups[other], NATS),
        number(claim, own - rest, groups[other], NATS, than="the other layers"),
    ]
