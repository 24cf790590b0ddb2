"""The numbers of what is claimed of masking influence and of interaction."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.stats import quotient
from ..common.tested import nothing, number
from ._entries import DISTANCES, NEXT, SHUFFLED, agreement, of_next_layer, per_entry, slope
from ._influence import BINS, ENTRIES
from ._interaction import IMAGE, no_rows

LITTLE = 0.1  # of a row's attention: from there on the estimate, which is linear, is not expected to be to scale
NEAR = slice(0, 2)  # bins of distance: a key's own position and the one before
FAR = slice(4, BINS)  # 8–15 and more; the first token, which draws attention from everywhere, counts to neither


def tested(rows: Rows, how: How) -> pd.DataFrame:
    return pd.concat([*_near(rows), *_first_order(rows), *_together(rows)], ignore_index=True)


def _near(rows: Rows) -> list[pd.DataFrame]:
    claim, groups, unit = "influence is near", rows.examples["group"], "ln (near : far)"
    own = _falls(per_entry(rows, "influence|distance").mean(2))
    heads = rows["influence|distance"].shape[2]
    beside = _falls(per_entry(rows, "influence|distance|shuffled", heads))
    if np.isnan(own).all():
        return [nothing(claim, f"no prompt reaches a distance of {DISTANCES[FAR.start].split('–')[0]} tokens")]
    return [number(claim, own, groups, unit), number(claim, own - beside, groups, unit, than=SHUFFLED)]


def _falls(values: np.ndarray) -> np.ndarray:
    """ln of the mean |E| of near entries over that of far ones, [n]."""
    known = values[:, ~np.isnan(values).all((0, 2))].mean(1)
    there = ~np.isnan(known[:, FAR]).all(1)
    near, far = known[:, NEAR].mean(1), np.full(len(known), np.nan)
    far[there] = np.nanmean(known[there, FAR], 1)
    return np.log(quotient(near, far))


def _first_order(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "first order is enough", rows.examples["group"]
    if "calibration|exact" not in rows.values:
        why = "no readings were masked for real"
        return [nothing(claim, why), nothing("first order is to scale", why)]
    exact, estimate = (rows[f"calibration|{name}"][..., ENTRIES.index("largest")] for name in ("exact", "estimate"))
    own, mixed = agreement(exact, estimate), agreement(exact, of_next_layer(estimate))
    than = NEXT
    frames = [number(claim, own, groups, "correlation"), number(claim, own - mixed, groups, "correlation", than=than)]
    return [*frames, *_to_scale(rows, than)]


def _to_scale(rows: Rows, than: str) -> list[pd.DataFrame]:
    claim, groups = "first order is to scale", rows.examples["group"]
    exact, estimate, attention = (
        rows[f"calibration|{n}"][..., ENTRIES.index("random")] for n in ("exact", "estimate", "attention")
    )
    little = np.where(attention < LITTLE, estimate, np.nan)
    own, mixed = (np.abs(slope(exact, some) - 1) for some in (little, of_next_layer(little)))
    unit = "|slope − 1|"
    return [number(claim, own, groups, unit), number(claim, own - mixed, groups, unit, than=than)]


def _together(rows: Rows) -> list[pd.DataFrame]:
    claim, groups, unit = "picture and question together", rows.examples["group"], "nats"
    if no_rows(rows.values):
        return [nothing(claim, "there are no pictures here")]
    own, wrong = (rows[f"interaction|{name}|{IMAGE}"][:, 0] for name in ("answer", "wrong"))
    if np.isnan(own).all():
        return [nothing(claim, "no example has another picture and another question")]
    return [number(claim, own, groups, unit), number(claim, own - wrong, groups, unit, than="the wrong answer")]
