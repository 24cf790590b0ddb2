"""Tables of masking influence and of INTER's interaction, and the numbers that claims about them are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...data.example import ROLES
from ...probes.runs.results import How, Rows
from ..common.frames import head_axes, summarise
from ..common.tested import nothing, number
from ._influence import BINS, ENTRIES
from ._interaction import IMAGE, NOISE, NUMBERS, no_rows

SHUFFLED = "slopes of other positions"
DISTANCES = ("0", "1", *(f"{2**i}–{2 ** (i + 1) - 1}" for i in range(1, BINS - 2)), f"{2 ** (BINS - 2)}+")
NEAR = 2  # bins of distance: a key's own position and the one before
FAR = 4  # from the bin 8–15 on


def _per_entry(rows: Rows, name: str, heads: int = 1) -> np.ndarray:
    """Mean |E| of an entry at each distance, [n, layer, (h,) BINS]; NaN where there is no such distance."""
    values = rows[name]
    entries = rows["influence|entries"].reshape(len(values), *[1] * (values.ndim - 2), BINS) * heads
    return np.divide(values, entries, out=np.full(values.shape, np.nan), where=entries > 0)


def _influence(rows: Rows, how: How) -> pd.DataFrame:
    """Mean |E| of an entry by layer and distance, beside the same with the slopes of other positions."""
    heads = rows["influence|distance"].shape[2]
    kinds = {
        "": _per_entry(rows, "influence|distance").mean(2),
        SHUFFLED: _per_entry(rows, "influence|distance|shuffled", heads),
    }
    frames = []
    for control, values in kinds.items():
        axes = {"layer": np.arange(values.shape[1]), "distance": DISTANCES}
        frames.append(summarise(values, rows.examples["group"], axes, "logits a key", control=control))
    return _known(pd.concat(frames, ignore_index=True))


def _influence_roles(rows: Rows, how: How) -> pd.DataFrame:
    """Σ |E| of queries of a role at keys of a role, over heads and layers, as a share of all."""
    frames = []
    for control, name in (("", "influence|pairs"), (SHUFFLED, "influence|pairs|shuffled")):
        values = np.nansum(rows[name], 1)
        axes = {"query": ROLES, "key": ROLES}
        below = values.sum((1, 2))
        frames.append(
            summarise(values, rows.examples["group"], axes, "share of influence", denominators=below, control=control)
        )
    whole = pd.concat(frames, ignore_index=True)
    there = whole.groupby(["query", "key"])["value"].transform("max") > 0
    return whole[there].reset_index(drop=True)


def _influence_heads(rows: Rows, how: How) -> pd.DataFrame:
    """Each head's Σ |E|, and the mean distance of what it rests on (weighted by |E|, in doublings)."""
    sums = rows["influence|distance"]
    whole = sums.sum(-1)
    reach = np.divide((sums * np.arange(BINS)).sum(-1), whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    frames = [
        summarise(values, rows.examples["group"], head_axes(values), unit, measure=measure)
        for measure, values, unit in (("influence", whole, "logits"), ("reach", reach, "doublings of distance"))
    ]
    return _known(pd.concat(frames, ignore_index=True))


def _calibration(rows: Rows, how: How) -> pd.DataFrame | None:
    """Correlation and slope over entries of the exact change by masking against its first-order estimate; by layer
    and, as layer NaN, of all.
    """
    if "calibration|exact" not in rows.values:
        return None
    frames = []
    for i, entry in enumerate(ENTRIES):
        exact, estimate = (rows[f"calibration|{name}"][..., i] for name in ("exact", "estimate"))
        for measure, values in (("correlation", _agreement(exact, estimate)), ("slope", _slope(exact, estimate))):
            frames.append(
                summarise(values, rows.examples["group"], {}, measure, measure=measure, entry=entry, control="")
            )
        mixed = _agreement(exact, np.roll(estimate, 1, 1))
        told: dict[str, Any] = {"measure": "correlation", "entry": entry, "control": "the next layer's estimate"}
        frames.append(summarise(mixed, rows.examples["group"], {}, "correlation", **told))
    return pd.concat(frames, ignore_index=True)


def _centred(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    known = ~(np.isnan(values) | np.isnan(other))
    count = np.maximum(known.sum(1, keepdims=True), 1)
    kept = np.where(known, values, 0.0)
    return np.where(known, kept - kept.sum(1, keepdims=True) / count, 0.0)


def _agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation over layers of each example, [n]."""
    x, y = _centred(a, b), _centred(b, a)
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), size, out=np.full(len(x), np.nan), where=size > 0)


def _slope(exact: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Of the exact change on the estimate, through 0, [n]."""
    there = ~(np.isnan(exact) | np.isnan(estimate))
    a, b = np.where(there, exact, 0.0), np.where(there, estimate, 0.0)
    size = (b**2).sum(1)
    return np.divide((a * b).sum(1), size, out=np.full(len(a), np.nan), where=size > 0)


def _interaction(rows: Rows, how: How) -> pd.DataFrame | None:
    """I by step: of the answer's token, of the first wrong answer's, of the likeliest words; its variance."""
    if no_rows(rows.values):
        return None
    frames = []
    for without in (IMAGE, NOISE):
        for name in NUMBERS:
            values = rows[f"interaction|{name}|{without}"]
            axes = {"step": np.arange(1, values.shape[1] + 1)}
            unit = "logits²" if name == "variance" else "nats"
            told: dict[str, Any] = {
                "word": name,
                "without": without,
                "control": "the wrong answer" if name == "wrong" else "",
            }
            frames.append(summarise(values, rows.examples["group"], axes, unit, **told))
    return _known(pd.concat(frames, ignore_index=True))


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["n"] > 0].reset_index(drop=True)


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    return pd.concat([*_near(rows), *_first_order(rows), *_together(rows)], ignore_index=True)


def _near(rows: Rows) -> list[pd.DataFrame]:
    claim, groups, unit = "influence is near", rows.examples["group"], "ln (near : far)"
    own = _falls(_per_entry(rows, "influence|distance").mean(2))
    heads = rows["influence|distance"].shape[2]
    beside = _falls(_per_entry(rows, "influence|distance|shuffled", heads))
    if np.isnan(own).all():
        return [nothing(claim, f"no prompt reaches a distance of {DISTANCES[FAR].split('–')[0]} tokens")]
    return [number(claim, own, groups, unit), number(claim, own - beside, groups, unit, than=SHUFFLED)]


def _falls(values: np.ndarray) -> np.ndarray:
    """ln of the mean |E| of near entries over that of far ones, [n]."""
    known = values[:, ~np.isnan(values).all((0, 2))].mean(1)
    there = ~np.isnan(known[:, FAR:]).all(1)
    near, far = known[:, :NEAR].mean(1), np.full(len(known), np.nan)
    far[there] = np.nanmean(known[there, FAR:], 1)
    return np.log(np.divide(near, far, out=np.full(len(near), np.nan), where=far > 0))


def _first_order(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "first order is enough", rows.examples["group"]
    if "calibration|exact" not in rows.values:
        return [nothing(claim, "no entries were masked for real")]
    exact, estimate = (rows[f"calibration|{name}"][..., ENTRIES.index("largest")] for name in ("exact", "estimate"))
    own, mixed = _agreement(exact, estimate), _agreement(exact, np.roll(estimate, 1, 1))
    than = "the next layer's estimate"
    return [number(claim, own, groups, "correlation"), number(claim, own - mixed, groups, "correlation", than=than)]


def _together(rows: Rows) -> list[pd.DataFrame]:
    claim, groups, unit = "picture and question together", rows.examples["group"], "nats"
    if no_rows(rows.values):
        return [nothing(claim, "there are no pictures here")]
    own, wrong = (rows[f"interaction|{name}|{IMAGE}"][:, 0] for name in ("answer", "wrong"))
    if np.isnan(own).all():
        return [nothing(claim, "no example has another picture and another question")]
    return [number(claim, own, groups, unit), number(claim, own - wrong, groups, unit, than="the wrong answer")]


TABLES = {
    "influence": (_influence, ("distance",)),
    "influence_roles": (_influence_roles, ("query", "key")),
    "influence_heads": (_influence_heads, ("measure",)),
    "calibration": (_calibration, ("measure", "entry")),
    "interaction": (_interaction, ("step", "word", "without")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
