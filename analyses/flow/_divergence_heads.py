"""Tables of head divergence by head: how far it moves, against which control, and whether its rank is stable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import Rows
from ..common import stats
from ..common.agreement import rank_correlations
from ..common.controls import IMAGE as ANOTHER_IMAGE
from ..common.controls import QUESTION as ANOTHER_QUESTION
from ..common.frames import head_axes, summarise

KINDS = {"l2": "norm of z", "relative": "share of the norms, mean of ratios", "cosine": "1 − cosine"}
POOLED, POOLED_UNIT = "pooled", "share of the norms, Σ / Σ"
QUESTION_CHANGED = "question changed"
CONTROLS = {"swapped": ANOTHER_IMAGE, QUESTION_CHANGED: ANOTHER_QUESTION}  # of the other ways, named by their null
RANKING, TOKENS = "ranking, example to example", "ranking, token to token"
LEADING = "share of the leading tenth"
LEADING_EXCESS, LEADING_POOLED = "leading tenth above its control", "leading tenth above its control, pooled"


def control_of(way: str) -> str:
    """The null that a way stands for; "" where it takes the image away."""
    return CONTROLS.get(way, "")


def controls(rows: Rows, way: str) -> Iterator[tuple[str, str]]:
    """(way, name) of every control that was measured beside a way; none for a control itself."""
    for other, name in CONTROLS.items():
        if not control_of(way) and f"{other}|l2" in rows.values and np.isfinite(rows[f"{other}|l2"]).any():
            yield other, name


def heads(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """Every head's divergence, of all kinds and pooled."""
    maps = {kind: rows[f"{way}|{kind}"] for kind in (*KINDS, "norms")}
    return _measured(maps, rows.examples["group"]).assign(control=control_of(way))


def layers(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """The same, mean over the heads of a layer."""
    maps = {kind: rows[f"{way}|{kind}"].mean(2) for kind in (*KINDS, "norms")}
    return _measured(maps, rows.examples["group"]).assign(control=control_of(way))


def _measured(maps: dict[str, np.ndarray], groups: pd.Series) -> pd.DataFrame:
    axes = head_axes(maps["l2"])
    frames = [summarise(maps[kind], groups, axes, unit).assign(measure=kind) for kind, unit in KINDS.items()]
    pooled = summarise(maps["l2"], groups, axes, POOLED_UNIT, denominators=maps["norms"])
    return pd.concat([*frames, pooled.assign(measure=POOLED)], ignore_index=True)


def excess(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """The paired difference of every head to the controls, its p within the family of all heads of a map."""
    frames, groups = [], rows.examples["group"]
    for other, name in controls(rows, way):
        for kind, unit in KINDS.items():
            gap = rows[f"{way}|{kind}"] - rows[f"{other}|{kind}"]
            p = stats.family_p(gap, groups).ravel()
            frames.append(summarise(gap, groups, head_axes(gap), unit).assign(measure=kind, control=name, p_family=p))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


# ---------------------------------------------------------------- stability


def stability(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """How alike the ranking of the heads is from example to example and from token to token, and how few lead it."""
    part, second = _halves(_complete(rows, way))
    if not len(second):
        return pd.DataFrame()
    groups = part.examples["group"].to_numpy()
    ranking, share = _ranking(part, way), _leading_share(part, way)
    odd, even = (_flat(part, f"{way}|{name}") for name in ("odd", "even"))
    frames = [
        summarise(ranking, groups, {}, "rank correlation").assign(measure=RANKING),
        summarise(rank_correlations(odd, even), groups, {}, "rank correlation").assign(measure=TOKENS),
        summarise(share[0], groups[second], {}, "share of the sum", denominators=share[1]).assign(measure=LEADING),
        *_leading_excess(rows, way),
    ]
    return pd.concat(frames, ignore_index=True).assign(control=control_of(way))


def _leading_excess(rows: Rows, way: str) -> list[pd.DataFrame]:
    """By how much the heads that lead by relative divergence move more than under another question."""
    if control_of(way) or QUESTION_CHANGED not in dict(controls(rows, way)):
        return []
    part, second = _halves(_complete(rows, way, QUESTION_CHANGED))
    if not len(second):
        return []
    best, held = _leading(part, f"{way}|relative"), part.where(second)
    groups = held.examples["group"]
    own, other = (_flat(held, f"{w}|relative")[:, best] for w in (way, QUESTION_CHANGED))
    sums = [tuple(_flat(held, f"{w}|{x}")[:, best].sum(1) for x in ("l2", "norms")) for w in (way, QUESTION_CHANGED)]
    gap = summarise((own - other).mean(1), groups, {}, KINDS["relative"])
    pooled = _difference(sums[0], sums[1], groups, POOLED_UNIT)
    return [gap.assign(measure=LEADING_EXCESS), pooled.assign(measure=LEADING_POOLED)]


def margins(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """Ranking and share of the leading tenth minus those of each control, over the examples that have both."""
    frames = []
    for other, name in controls(rows, way):
        part, second = _halves(_complete(rows, way, other))
        if not len(second):
            continue
        groups = part.examples["group"].to_numpy()
        gap = _ranking(part, way) - _ranking(part, other)
        own, theirs = _leading_share(part, way), _leading_share(part, other)
        pair = (
            summarise(gap, groups, {}, "rank correlation").assign(measure=RANKING),
            _difference(own, theirs, groups[second], "share of the sum").assign(measure=LEADING),
        )
        frames += [frame.assign(control=name) for frame in pair]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _complete(rows: Rows, *ways: str) -> Rows:
    """The examples that have every head in all of these ways."""
    maps = [_flat(rows, f"{way}|l2") for way in ways]
    return rows.where(np.all([np.isfinite(values).all(1) & (values.shape[1] > 0) for values in maps], axis=0))


def _halves(rows: Rows) -> tuple[Rows, np.ndarray]:
    """The rows, and which of them measure what the other half chose; none with fewer than two groups."""
    groups = rows.examples["group"].to_numpy()
    return rows, stats.split_half(groups)[1] if len(np.unique(groups)) > 1 else np.zeros(0, bool)


def _flat(rows: Rows, name: str) -> np.ndarray:
    """[n, layer, head] -> [n, heads], of the layers that have heads."""
    bare = np.isnan(rows[f"{name.partition('|')[0]}|l2"]).all((0, 2))
    maps = np.ascontiguousarray(rows[name][:, ~bare]) if bare.any() else rows[name]
    return maps.reshape(len(rows.examples), -1)


def _leading(rows: Rows, name: str) -> np.ndarray:
    """The tenth of the heads with the largest mean on the first half of the groups."""

    def tenth(maps: np.ndarray) -> np.ndarray:
        return np.argsort(-maps.mean(0), kind="stable")[: max(1, maps.shape[1] // 10)]

    return stats.chosen_on(_flat(rows, name), rows.examples["group"].to_numpy(), tenth)[0]


def _leading_share(rows: Rows, way: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators of the leading tenth's share of the divergence, on the second half."""
    second = stats.split_half(rows.examples["group"].to_numpy())[1]
    maps = _flat(rows, f"{way}|l2")[second]
    return maps[:, _leading(rows, f"{way}|l2")].sum(1), maps.sum(1)


def _ranking(rows: Rows, way: str) -> np.ndarray:
    """[n]: rank correlation over heads of each example's map with the mean of all other groups'."""
    maps = _flat(rows, f"{way}|l2")
    _, codes = np.unique(rows.examples["group"].to_numpy(), return_inverse=True)
    sums, counts = np.zeros((codes.max() + 1, maps.shape[1])), np.bincount(codes)
    np.add.at(sums, codes, maps)
    others = (maps.sum(0) - sums) / (len(maps) - counts)[:, None]
    return rank_correlations(maps, others[codes])


def _difference(first: Any, second: Any, groups: Any, unit: str) -> pd.DataFrame:
    """One row: Σ / Σ of the first (numerators, denominators) minus that of the second."""
    difference = stats.ratio_difference(first, second, groups)
    numbers = {name: [float(getattr(difference, name))] for name in ("value", "lower", "upper")}
    return pd.DataFrame({**numbers, "n": len(groups), "n_groups": len(np.unique(groups)), "unit": unit})
