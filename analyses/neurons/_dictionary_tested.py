"""The numbers of the claims about dictionaries, each with its margin over a control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.controls import COMPONENTS, DIRECTION, FEATURES, UNTRAINED
from ..common.frames import mean_of_present
from ..common.labels import label_column
from ..common.stats import quotient
from ..common.tested import nothing, number
from ._dictionary_features import OWN as FROM_LABEL
from ._dictionary_features import STEERED
from ._dictionary_ways import MEAN, OWN, WAYS

Array = NDArray[Any]
MLP = "the layer's MLP neurons, chosen alike"
ALONE = "the state as the dictionary tells it, nothing added"
KINDS = {"features": "", "twins": FEATURES, "neurons": MLP}  # rows of units -> the control that they are
UNIT = "share of tokens"
NO_LABELS = "the examples have no labels (2 to 8 are needed)"
NO_UNITS = "no text is of a label that has such units"
NO_STEERING = "nothing was steered: no labels, or --dictionaries.steering no"


def explained(rows: Rows, way: str) -> tuple[Array, Array]:
    """(variance that a way explains [n], variance [n]), sums over the tokens of a text, about the mean state."""
    return rows["total"] - rows["left"][:, WAYS.index(way)], rows["total"]


def recovered(rows: Rows, way: str) -> tuple[Array, Array]:
    """(loss that a way spares against the mean state [n], loss that the mean state adds [n])."""
    replaced = rows["replaced|loss"]
    worst = replaced[:, WAYS.index(MEAN)]
    return worst - replaced[:, WAYS.index(way)], worst - rows["clean|loss"]


def label_numbers(rows: Rows, how: How) -> Array:
    """The number of each example's label, −1 without one."""
    places = {label: i for i, label in enumerate(how.learned.labels)}
    return np.array([places.get(label, -1) for label in label_column(rows)])


def apart(rows: Rows, how: How, kind: str) -> Array | None:
    """[n]: the share of a text's tokens at which its own label's units are active, minus that of the other labels';
    None where there are no such units.
    """
    name = f"on|{kind}"
    if name not in rows.values:
        return None
    share = quotient(mean_of_present(rows[name]), rows["tokens"][:, None])
    own = label_numbers(rows, how)[:, None] == np.arange(share.shape[1])
    mine = np.where(own.any(1), np.where(own, share, 0).sum(1), np.nan)
    return mine - mean_of_present(np.where(own, np.nan, share))


def steered(rows: Rows, what: str, way: str) -> Array:
    """[n, strength]: change of "said" or "loss" under one of STEERED."""
    return rows[f"steered|{what}"][:, STEERED.index(way)] - rows[f"clean|{what}"][:, None]


def alone(rows: Rows, what: str) -> Array:
    """[n]: the same change where the state is only told by the dictionary; of texts that are steered."""
    change = rows[f"replaced|{what}"][:, WAYS.index(OWN)] - rows[f"clean|{what}"]
    return np.where(np.isnan(rows["clean|said"]), np.nan, change)


def tested(rows: Rows, how: How) -> pd.DataFrame:
    return pd.concat([*_quality(rows), *_of_labels(rows, how), *_steers(rows)], ignore_index=True)


def _quality(rows: Rows) -> list[pd.DataFrame]:
    groups, parts = rows.examples["group"], []
    (own, total), (spared, at_stake) = explained(rows, OWN), recovered(rows, OWN)
    less = {way: (explained(rows, way)[0], recovered(rows, way)[0]) for way in (UNTRAINED, COMPONENTS)}
    claim = "more than components"
    parts.append(number(claim, own - less[COMPONENTS][0], groups, "share", denominators=total))
    parts.append(number(claim, own - less[UNTRAINED][0], groups, "share", denominators=total, than=UNTRAINED))
    claim = "loss recovered"
    if not at_stake.sum() > 0:
        return [*parts, nothing(claim, "the mean state costs the model nothing here")]
    parts.append(number(claim, spared, groups, "share", denominators=at_stake))
    for way, (_, loss) in less.items():
        parts.append(number(claim, spared - loss, groups, "share", denominators=at_stake, than=way))
    return parts


def _of_labels(rows: Rows, how: How) -> list[pd.DataFrame]:
    names, groups, unit = ("features of one label", "more specific than neurons"), rows.examples["group"], UNIT
    own, twins, neurons = ((apart(rows, how, kind) if how.learned.labels else None) for kind in KINDS)
    if own is None or twins is None or np.isnan(own).all():
        return [nothing(name, NO_UNITS if how.learned.labels else NO_LABELS) for name in names]
    parts = [number(names[0], own, groups, unit), number(names[0], own - twins, groups, unit, than=FEATURES)]
    if neurons is None or np.isnan(neurons).all():
        return [*parts, nothing(names[1], "the layer's MLP has no neurons that can be read")]
    return [*parts, number(names[1], own - neurons, groups, unit)]


def _steers(rows: Rows) -> list[pd.DataFrame]:
    claim, unit = "features steer", "probability"
    if "steered|said" not in rows.values or np.isnan(rows["steered|said"]).all():
        return [nothing(claim, NO_STEERING)]
    own, groups = steered(rows, "said", FROM_LABEL)[:, 0], rows.examples["group"]
    others = {way: steered(rows, "said", way)[:, 0] for way in (FEATURES, DIRECTION)}
    margins = [number(claim, own - other, groups, unit, than=way) for way, other in others.items()]
    return [number(claim, own, groups, unit), *margins]
