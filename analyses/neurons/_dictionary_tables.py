"""Tables of dictionaries: what they tell of states, how often features are active, for whom, and what they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.frames import joined, summarise
from ._dictionary_features import MEANS, STEERED, STRENGTHS
from ._dictionary_features import OWN as FROM_LABEL
from ._dictionary_tested import ALONE, KINDS, alone, apart, explained, label_numbers, recovered, steered, tested
from ._dictionary_ways import MEAN, OWN, WAYS

POWERS = range(-5, 0)  # of ten: shares of tokens at which features are active
NEVER = "never"
EXPLAINED, RECOVERED, ADDED, ACTIVE = "variance explained", "loss recovered", "loss added", "active features a token"
SAID, LOSS = "probability of the label's words", "loss of the text"


def _control(way: str) -> str:
    return "" if way == OWN else way


def _quality(rows: Rows, _: How) -> pd.DataFrame:
    """What the dictionary tells of the states, and what it costs, beside its rivals."""
    groups, parts = rows.examples["group"], []
    for i, way in enumerate(WAYS):
        if way != MEAN:
            for measure, of in ((EXPLAINED, explained), (RECOVERED, recovered)):
                above, below = of(rows, way)
                named: dict[str, Any] = {"measure": measure, "control": _control(way)}
                parts.append(summarise(above, groups, {}, "share", denominators=below, **named))
        added = rows["replaced|loss"][:, i] - rows["clean|loss"]
        parts.append(summarise(added, groups, {}, "nats a token", measure=ADDED, control=_control(way)))
    named: dict[str, Any] = {"measure": ACTIVE, "control": ""}
    return joined([*parts, summarise(rows["active"], groups, {}, "features", denominators=rows["tokens"], **named)])


def _by_label(rows: Rows, how: How) -> pd.DataFrame | None:
    """Share of variance explained in the texts of each label."""
    parts = []
    for label, mine, groups in _each_label(rows, how):
        for way in WAYS[:-1]:
            above, below = (values[mine] for values in explained(rows, way))
            named: dict[str, Any] = {"label": label, "control": _control(way)}
            parts.append(summarise(above, groups, {}, "share", denominators=below, **named))
    return joined(parts) if parts else None


def _each_label(rows: Rows, how: How) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(label, which texts are of it, their groups) of every label that has texts here."""
    own, groups = label_numbers(rows, how), rows.examples["group"].to_numpy()
    masks = [(label, own == i) for i, label in enumerate(how.learned.labels)]
    return [(label, mine, groups[mine]) for label, mine in masks if mine.any()]


def _often(rows: Rows, _: How) -> pd.DataFrame:
    """How many features are active at which share of the tokens."""
    tokens = int(rows["tokens"].sum())
    share = rows.sums["fires"].sum(0) / max(1, tokens)
    counted = {NEVER: int((share == 0).sum())}
    for power in POWERS:
        low = 0.0 if power == POWERS[0] else 10.0**power
        inside = (share > low) & (share <= 10.0 ** (power + 1))
        counted[f"up to {10.0 ** (power + 3):g} %"] = int(inside.sum())
    table = pd.DataFrame({"often": [*counted], "value": np.array([*counted.values()], float)})
    return table.assign(
        lower=np.nan, upper=np.nan, n=tokens, n_groups=rows.examples["group"].nunique(), unit="features"
    )


def _specific(rows: Rows, how: How) -> pd.DataFrame | None:
    """By label, the share of tokens at which its units are active minus that of the other labels' units."""
    parts: list[pd.DataFrame] = []
    for kind, control in KINDS.items() if how.learned.labels else ():
        values = apart(rows, how, kind)
        if values is not None:
            for label, mine, groups in _each_label(rows, how):
                parts.append(summarise(values[mine], groups, {}, "share of tokens", label=label, control=control))
    return joined(parts) if parts else None


def _features(rows: Rows, how: How) -> pd.DataFrame | None:
    """The features of each label, how active they are in its texts and in the others', in words."""
    parts, own, on, tokens = [], label_numbers(rows, how), rows["on|features"], rows["tokens"]
    masks = [own == i for i in range(len(how.learned.labels))]
    for label, mine, groups in _each_label(rows, how):
        i = how.learned.labels.index(label)
        for at, feature in enumerate(how.learned.features[i]):
            shares = np.array([on[one, i, at].sum() / max(1, tokens[one].sum()) for one in masks])
            told: dict[str, Any] = {"label": label, "feature": feature, "others": float(np.delete(shares, i).mean())}
            told["entropy"] = float(metrics.group_entropy(torch.from_numpy(shares)))
            told |= {name: _said(rows, getattr(how.learned, name), i, at) for name in ("reads", "writes")}
            values = {"denominators": tokens[mine], **told}
            parts.append(summarise(on[mine, i, at], groups, {}, "share of tokens", **values))
    return joined(parts) if parts else None


def _said(rows: Rows, several: Any, label: int, at: int) -> str:
    """The tokens of one feature as words; "" where none were kept."""
    ids = several[label][at] if several else []
    return " · ".join(rows.words(np.array(ids)).tolist()) if len(ids) else ""


def _steering(rows: Rows, _: How) -> pd.DataFrame | None:
    """Change of the probability of a label's words, and of the loss, in other labels' texts that are steered to it."""
    if "steered|said" not in rows.values:
        return None
    axes, groups, parts = {"strength": STRENGTHS}, rows.examples["group"], []
    for measure, what, unit in ((SAID, "said", "probability"), (LOSS, "loss", "nats a token")):
        for way in STEERED:
            # The difference of means is another way of steering, no null of this one: a line of its own.
            by, control = (way, "") if way in (FROM_LABEL, MEANS) else (FROM_LABEL, way)
            values = steered(rows, what, way)
            parts.append(summarise(values, groups, axes, unit, measure=measure, by=by, control=control))
        values = np.repeat(alone(rows, what)[:, None], len(STRENGTHS), 1)
        parts.append(summarise(values, groups, axes, unit, measure=measure, by=FROM_LABEL, control=ALONE))
    return joined(parts)


TABLES = {
    "quality": (_quality, ("measure",)),
    "by_label": (_by_label, ("label",)),
    "often": (_often, ("often",)),
    "specific": (_specific, ("label",)),
    "features": (_features, ("label", "feature", "others", "entropy", "reads", "writes")),
    "steering": (_steering, ("measure", "by", "strength")),
    "tested": (tested, ("claim", "than", "untestable")),
}
