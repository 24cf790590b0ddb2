"""What the claims of redundancy are about, each number with its margin over its controls."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.agreement import spearman
from ..common.tested import nothing, number
from ._importance import INSIDE, KINDS, SHARES
from ._redundancy_ranks import (
    ORTHOGONAL,
    RANKS,
    Array,
    cells_of,
    cost_of,
    counts_of,
    entropy_changes,
    estimated,
    moments_of,
    without_nan,
)
from ._skips import LEFT_OUT, ORDERS

NORM = "the norm of the update"
NATS = "nats a token"
MOST = 3 / 16  # of the dimensions of z: 768 of 4096


def tested(rows: Rows, how: How) -> pd.DataFrame:
    """A row for each claim, and for each control of it."""
    made = (_predicts, _deep, _before, _third, _least, _entropy, _few, _vision)
    return pd.concat([frame for make in made for frame in make(rows)], ignore_index=True)


def _given(claim: str, estimate: dict[str, float], unit: str, rows: Rows, than: str = "") -> pd.DataFrame:
    """A row of `tested` of a number that is no mean over examples."""
    return pd.DataFrame(
        [{"claim": claim, "than": than, "untestable": ""} | estimate | {"unit": unit} | counts_of(rows)]
    )


def _predicts(rows: Rows) -> list[pd.DataFrame]:
    claim = "importance predicts loss"
    if not {"skip|attention", "skip|MLP"} <= set(rows.values):
        return [nothing(claim, "this model has no attention or no MLPs to leave out")]

    def both(mean: Array) -> Array:
        own, null = (spearman(mean[i], mean[-1]) for i in (0, 1))
        return np.array([own, own - null])

    own, margin = estimated(cells_of(rows, ("attention", "MLP")), rows, both)
    return [_given(claim, own, RANKS, rows), _given(claim, margin, RANKS, rows, ORTHOGONAL)]


def _deep(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "deep attention is redundant", rows.examples["group"]
    if not {"skip|attention", "skip|MLP"} <= set(rows.values):
        return [nothing(claim, "this model has no attention or no MLPs to leave out")]
    attention, mlp = (_deep_minus_rest(cost_of(rows, f"skip|{kind}")) for kind in ("attention", "MLP"))
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
    claim, moments = "entropy predicts loss", moments_of(rows, "skip")
    width = 0 if moments is None else moments.shape[3]
    if moments is None or len(moments) < 3:
        return [nothing(claim, "an entropy over examples needs more of them")]
    cost, norm = cost_of(rows, "skip|attention"), rows["turned"][:, :, KINDS.index("attention"), 1]
    there = without_nan(moments, 1)[1:]
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
        found = entropy_changes(mean[: -2 * count].reshape(count + 1, 2, width))
        costs, norms = mean[-2 * count : -count], mean[-count:]
        own = spearman(found, costs)
        return np.array([own, own - spearman(norms, costs)])

    own, margin = estimated(packed, rows, both, 100)
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
    excess = cost_of(rows, "skip|block") - (rows["blind|block"][..., 0] - rows["blind clean"][:, None, 0])
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
