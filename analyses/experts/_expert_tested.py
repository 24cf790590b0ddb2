"""The numbers of the claims about experts, each with its margin over a control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.claims import unseen
from ..common.controls import DRAWS, EXPERTS, PERMUTED_LABELS, permuted_labels
from ..common.folds import folds_of, over_folds
from ..common.frames import mean_of_present
from ..common.stats import MIN_GROUPS
from ..common.tested import nothing, number
from ._expert_sums import Sums

Array = NDArray[Any]
NEVER, OWN, HURTS = "few experts never active", "experts of one label", "removal hurts its label"
ALONE = "one text alone"
NO_LABELS = "fewer than two labels (meta label or kind of the examples, or --experts.by COLUMN)"
NO_EXPERTS = "no expert is loaded more by one label's held-out texts"
NO_REMOVAL = "no expert was taken out (--experts.removal)"


def tested(rows: Rows, how: How) -> pd.DataFrame:
    sums = Sums(rows, how.learned, how.options.by)
    return pd.concat([*_never(sums), *_own(sums, how), *_hurts(rows, sums, how)], ignore_index=True)


def _never(sums: Sums) -> list[pd.DataFrame]:
    fold, unit = folds_of(sums.groups), "share"
    told: dict[str, Any] = {"claim": NEVER, "untestable": ""}
    alone = over_folds(lambda w: sums.never(w) - sums.never_alone(w), fold, {}, unit, than=ALONE, **told)
    return [_with_width(over_folds(sums.never, fold, {}, unit, than="", **told)), alone]


def _with_width(row: pd.DataFrame) -> pd.DataFrame:
    """A share that no fold changes as it is left out: the exact interval of so many equal folds."""
    value, folds = float(row["value"].iloc[0]), int(row["n_groups"].iloc[0])
    if folds >= MIN_GROUPS and row["lower"].iloc[0] == row["upper"].iloc[0]:
        slack = unseen(folds)
        row[["lower", "upper"]] = (max(0.0, value - slack), min(1.0, value + slack))
    return row


def own_more(sums: Sums, specific: Any, label: Array) -> Array:
    """Of each text [n]: the share of its tokens that go to an expert of its own label minus that to one of another
    label's, means over experts; NaN without a label.
    """
    share = sums.chosen / np.where(sums.tokens > 0, sums.tokens, np.nan)[:, None, None]
    places = {int(layer): i for i, layer in enumerate(sums.layers)}
    mean = np.full((len(share), len(specific)), np.nan)
    for i, own in enumerate(specific):
        if len(own):
            layers, experts = np.array([(places[layer], expert) for layer, expert in own]).T
            mean[:, i] = share[:, layers, experts].mean(1)
    return _own_minus_others(mean, label)


def _own_minus_others(values: Array, label: Array) -> Array:
    """[n] of values [n, label]: that of an example's own label minus the mean of the others."""
    own = label[:, None] == np.arange(values.shape[1])
    mine = np.where(own, values, 0.0).sum(1)
    return np.where(own.any(1), mine - mean_of_present(np.where(own, np.nan, values), 1), np.nan)


def _own(sums: Sums, how: How) -> list[pd.DataFrame]:
    missing = "" if sums.labels else NO_LABELS
    missing = missing or ("" if sum(map(bool, map(len, how.learned.specific))) > 1 else NO_EXPERTS)
    if missing:
        return [nothing(OWN, missing)]
    more, unit = own_more(sums, how.learned.specific, sums.label), "share of tokens"
    draws = [permuted_labels(sums.label, sums.groups, draw) for draw in range(DRAWS)]
    chance = mean_of_present(np.stack([own_more(sums, how.learned.specific, label) for label in draws], 1), 1)
    return [number(OWN, more, sums.groups, unit), number(OWN, more - chance, sums.groups, unit, than=PERMUTED_LABELS)]


def _hurts(rows: Rows, sums: Sums, how: How) -> list[pd.DataFrame]:
    """Each text's loss without the experts of its label minus the mean of those without another label's."""
    if not sums.labels:
        return [nothing(HURTS, NO_LABELS)]
    if "removed" not in rows.values:
        return [nothing(HURTS, NO_REMOVAL)]
    more, random = (_own_minus_others(rows["removed"][..., i].astype(float), sums.label) for i in (0, 1))
    if np.isnan(more).all():
        return [nothing(HURTS, NO_EXPERTS)]
    unit = "nats a token"
    return [number(HURTS, more, sums.groups, unit), number(HURTS, more - random, sums.groups, unit, than=EXPERTS)]
