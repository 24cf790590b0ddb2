"""Tables of `faithfulness`: the curves, their areas, effects by position, and the numbers of the claims."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.agreement import ESTIMATES, FIVE, agreement_table
from ..common.contrast import apart, task_table, unsolved
from ..common.controls import HEADS
from ..common.frames import head_axes, summarise
from ..common.selection import at, halves, measured_rows
from ..common.tested import nothing, number

EXACT = "patched at every position"


SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


HELP, SIZE = "most helpful first", "largest |effect| first"


RANKINGS = (HELP, SIZE)


TENTH, TOP = SHARES.index(0.1), 0.05


GRADIENTS_BAR = 0.7  # of the exact top heads' effect, that the gradients' top heads hold


def _scored(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "faithfulness")


def head_counts(n_heads: int) -> list[int]:
    return [round(share * n_heads) for share in SHARES]


def _points(rows: Rows, ranking: int) -> dict[str, np.ndarray]:
    """The circuit's curve and its control's (mean over draws), [n, shares] each."""
    return {"": rows["curve"][:, ranking], HEADS: rows["random"][:, ranking].mean(1)}


def _curve(rows: Rows, how: How) -> pd.DataFrame:
    mine = _scored(rows, how)
    groups, frames = mine.examples["group"], []
    for place, ranking in enumerate(RANKINGS):
        for control, points in _points(mine, place).items():
            names: dict[str, Any] = {"control": control, "ranking": ranking}
            frames.append(summarise(points, groups, {"share": SHARES}, "logits", measure="logit difference", **names))
            above, span = _parts(mine, place, points)
            if apart(span[:, 0], groups):
                names |= {"denominators": np.broadcast_to(span, points.shape), "measure": "faithfulness"}
                frames.append(summarise(above, groups, {"share": SHARES}, "share of the effect", **names))
    frame = pd.concat(frames, ignore_index=True)
    heads = frame["share"].map(dict(zip(SHARES, head_counts(len(how.learned.ranking)), strict=True)))
    frame = frame.assign(heads=heads, draws=np.where(frame["control"] == "", 1, how.options.draws))
    return frame[frame["value"].notna()].reset_index(drop=True)


def _parts(rows: Rows, ranking: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m − m₀ [n, shares], clean − m₀ [n, 1])."""
    nothing_kept = rows["curve"][:, ranking, :1]
    return points - nothing_kept, rows["clean"][:, None] - nothing_kept


def _area(rows: Rows, how: How) -> pd.DataFrame | None:
    mine = _scored(rows, how)
    groups, frames = mine.examples["group"].to_numpy(), []
    for place, name in enumerate(("CPR", "CMD")):
        curves = _points(mine, place)
        common = int(np.cumprod(~np.isnan(curves[HEADS]).any(0)).sum())  # so many points have a control
        for control, points in curves.items():
            above, span = _parts(mine, place, points)
            if apart(span[:, 0], groups) and (not control or common > 1):
                whole = np.concatenate([above[:, :common] if control else above, span], 1)
                frames.append(_areas(whole, groups, name, common).assign(control=control))
    return pd.concat(frames, ignore_index=True) if frames else None


def _areas(points: np.ndarray, groups: np.ndarray, name: str, common: int) -> pd.DataFrame:
    """Areas of the mean curve with their intervals; points: [n, shares + 1], the last column the denominators."""

    def of(mean: np.ndarray) -> dict[str, float]:
        curve, found = mean[:-1] / mean[-1], {}
        if len(curve) == len(SHARES):
            found = {key: value for key, value in metrics.circuit_areas(curve, SHARES).items() if key.startswith(name)}
        if common > 1:
            short = metrics.circuit_areas(curve[:common], SHARES[:common])[name] / SHARES[common - 1]
            found[f"{name}, mean up to {SHARES[common - 1]:.0%}"] = short
        return found

    found = stats.bootstrap_statistic(points, groups, lambda mean: np.array(list(of(mean).values())), n_boot=500)
    bounds = dict(zip(("value", "lower", "upper"), found, strict=True))
    counts = {"n": len(groups), "n_groups": len(np.unique(groups)), "unit": "area"}
    return pd.DataFrame({"measure": list(of(points.mean(0))), **bounds} | counts)


def _effects(rows: Rows, how: How) -> pd.DataFrame:
    frames = []
    for part in ("head", "mlp"):
        for name in (EXACT, *ESTIMATES):
            values = rows[f"{part}|{name}"]
            groups = rows.examples["group"]
            frames.append(summarise(values, groups, head_axes(values), "logits", part=part, measure=name))
    return pd.concat(frames, ignore_index=True)


def _agreement(rows: Rows, how: How) -> pd.DataFrame | None:
    return agreement_table(rows, EXACT)


def _positions(rows: Rows, how: How) -> pd.DataFrame | None:
    frames = []
    for key in (name for name in rows.values if name.startswith("position|")):
        _, site, position = key.split("|")
        values = rows[key]
        names: dict[str, Any] = {"site": site, "position": position}
        frames.append(summarise(values, rows.examples["group"], head_axes(values), "logits", **names))
    return pd.concat(frames, ignore_index=True) if frames else None


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    mine = _scored(rows, how)
    reason = unsolved(mine)
    return pd.concat([*_tenth(mine, reason), _found(rows, how, reason)], ignore_index=True)


def _found(rows: Rows, how: How, reason: str) -> pd.DataFrame:
    """The effect of the heads that gradients name over that of the exact top heads, each head's sign the first half's.

    Smooth where a recall of heads is not: a head that just misses the top is worth what it does.
    """
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    if not chosen.any():
        return nothing("gradients", reason or "one group cannot be halved")
    exact, guess = (rows[f"head|{name}"][chosen].mean(0) for name in (EXACT, FIVE))
    turned, groups = rows[f"head|{EXACT}"][other] * np.sign(exact), rows.examples["group"][other]
    top, named = (at(turned, metrics.top_heads(torch.tensor(x), TOP)).sum(1) for x in (exact, guess))
    if not apart(top, groups):
        return nothing("gradients", reason or "the two halves of the groups do not agree on the top heads")
    return number("gradients", named, groups, "share", denominators=top, untestable=reason)


def _tenth(rows: Rows, reason: str) -> list[pd.DataFrame]:
    """Faithfulness with a tenth of the heads, and the same minus that of random heads of their layers."""
    groups, place = rows.examples["group"], RANKINGS.index(SIZE)
    curves = {control: _parts(rows, place, points) for control, points in _points(rows, place).items()}
    (own, span), (random, _) = curves[""], curves[HEADS]
    if not apart(span[:, 0], groups):
        said = reason or "clean and all heads resampled do not differ here: faithfulness is not defined"
        return [nothing(name, said) for name in ("faithful", "not depth")]
    given = {"denominators": span[:, 0], "untestable": reason}
    unit, ahead = "share of the effect", (own - random)[:, TENTH]
    alone = "" if not np.isnan(ahead).all() else f"no control: there are no {HEADS}"
    return [
        number("faithful", own[:, TENTH], groups, unit, **given),
        number("faithful", ahead, groups, unit, than=HEADS, **given),
        number("not depth", ahead, groups, unit, **given | {"untestable": reason or alone}),
    ]


TABLES = {
    "task": (task_table, ("measure",)),
    "curve": (_curve, ("share", "measure", "ranking", "heads", "draws")),
    "area": (_area, ("measure",)),
    "effects": (_effects, ("part", "measure")),
    "positions": (_positions, ("site", "position")),
    "agreement": (_agreement, ("part", "estimate", "measure")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
