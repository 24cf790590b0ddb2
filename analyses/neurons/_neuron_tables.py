"""Tables of neurons: where the specific ones lie, how specific they stay elsewhere, what their removal does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.controls import NEURONS, PERMUTED_IN_FOLDS
from ..common.frames import joined, summarise
from ..common.labels import label_column
from ._card_tables import CARD_TABLES
from ._channel_tables import important_layers
from ._counts import PREFIXES, TEXT, WITH_LAYERS, WITH_NEURONS
from ._neuron_tested import tested
from ._removal import HOW, ZERO
from ._specific import entropy_bar
from ._statistics import (
    ENDS,
    apart,
    at_ends,
    by_folds,
    ends_by_chance,
    important_apart,
    layer_share,
    permuted_mean,
    plain,
)
from ._units import Units, each_part, units_of
from ._words import SHOWN


def _layers(rows: Rows, how: How) -> pd.DataFrame | None:
    """Share of a layer's neurons that are specific to a label, of this run's own documents; and how many are as much so
    with permuted labels.
    """
    return each_part(rows, how, WITH_NEURONS, _layers_of)


def _layers_of(units: Units, how: How) -> pd.DataFrame:
    axes: dict[str, Any] = {"layer": np.arange(units.active.shape[1]), "label": how.learned.labels}
    own = by_folds(units, lambda w: layer_share(units, how.options, w), axes, "share of neurons", control="")
    bar = entropy_bar(units.probability(), how.options.share, how.options.rate)
    chance = permuted_mean(units, lambda label: layer_share(units, how.options, None, label, bar))
    return joined([own, plain(own, chance).assign(control=PERMUTED_IN_FOLDS)])


def _held_out(rows: Rows, how: How) -> pd.DataFrame | None:
    """Activation probability in the own label minus that in the others, of neurons chosen on other documents."""
    return each_part(rows, how, WITH_NEURONS, _held_out_of)


def _held_out_of(units: Units, how: How) -> pd.DataFrame | None:
    if not any(map(len, how.learned.specific)):
        return None
    axes = {"label": how.learned.labels}
    parts = [
        by_folds(units, lambda w: apart(units, how.learned.specific, w), axes, "share of tokens", control=""),
        by_folds(units, lambda w: _of_twins(units, how, w), axes, "share of tokens", control=NEURONS),
    ]
    return joined(parts)


def _of_twins(units: Units, how: How, weights: np.ndarray) -> np.ndarray:
    return np.mean([apart(units, draw, weights) for draw in how.learned.random], 0)


def _important(rows: Rows, how: How) -> pd.DataFrame | None:
    """Share of their own label's texts to which neurons (or channels) matter minus that of the others, chosen on other
    texts.
    """
    return each_part(rows, how, tuple(PREFIXES), _important_of)


def _important_of(units: Units, how: How) -> pd.DataFrame:
    own, axes = how.learned.always, {"label": how.learned.labels}
    table = by_folds(units, lambda w: important_apart(units, own, w), axes, "share of texts", control="")
    chance = permuted_mean(units, lambda label: important_apart(units, own, None, label))
    counted = joined([table, plain(table, chance).assign(control=PERMUTED_IN_FOLDS)])
    return counted.assign(neurons=counted["label"].map(dict(zip(how.learned.labels, map(len, own), strict=True))))


def _neurons(rows: Rows, how: How) -> pd.DataFrame | None:
    """The most specific neurons of each label, with their activation probabilities in this run's documents."""
    units = units_of(rows, how).get(TEXT)
    if units is None:
        return None
    probability = units.probability()
    entropy = metrics.group_entropy(probability.nan_to_num())
    parts = []
    for i, label in enumerate(how.learned.labels):
        for at, (layer, neuron) in enumerate(how.learned.specific[i][:SHOWN]):
            shares = probability[layer, neuron].tolist()
            others = float(np.mean([share for j, share in enumerate(shares) if j != i]))
            told = {"layer": layer, "neuron": neuron, "label": label, "value": shares[i], "others": others}
            told |= {"reads": _said(rows, how.learned.reads, i, at), "writes": _said(rows, how.learned.writes, i, at)}
            tokens = int(units.tokens[units.label == i].sum())
            parts.append(told | {"entropy": float(entropy[layer, neuron]), "n": tokens, "unit": "share of tokens"})
    return pd.DataFrame(parts) if parts else None


def _said(rows: Rows, several: Any, label: int, at: int) -> str:
    """The tokens of one neuron as words; "" where none were kept."""
    ids = several[label][at] if several else []
    return " · ".join(rows.words(np.array(ids)).tolist()) if len(ids) else ""


def _ends(rows: Rows, how: How) -> pd.DataFrame | None:
    """Of what neurons are more active for their own label by, the share in the first and in the last quarter of the
    layers; and of the neurons that permuted labels have.
    """
    return each_part(rows, how, WITH_LAYERS, _ends_of)


def _ends_of(units: Units, how: How) -> pd.DataFrame | None:
    if not any(map(len, how.learned.specific)):
        return None
    unit = "share of the difference"
    own = by_folds(units, lambda w: at_ends(units, how.learned.specific, w), {"part": ENDS}, unit, control="")
    return joined([own, plain(own, ends_by_chance(units, how.options)).assign(control=PERMUTED_IN_FOLDS)])


def _removal(rows: Rows, how: How) -> pd.DataFrame | None:
    """How much more the loss of each label's texts is without the neurons of each label, or of their twins."""
    own, frames = label_column(rows, how.options.by), []
    axes: dict[str, Any] = {"removed": how.learned.labels, "how": HOW}
    for part in (part for part in WITH_NEURONS if f"{PREFIXES[part]}removed" in rows.values):
        values = rows[f"{PREFIXES[part]}removed"]
        for label in (label for label in how.learned.labels if (own == label).any()):
            mine = own == label
            groups, columns = rows.examples["group"].to_numpy()[mine], {"evaluated": label, "module": part}
            frames.append(summarise(values[mine], groups, axes, "nats a token", **columns))
    if not frames:
        return None
    table = joined(frames)
    random = table["how"] == NEURONS
    return table.assign(control=np.where(random, NEURONS, ""), how=np.where(random, ZERO, table["how"]))


TABLES = {
    "layers": (_layers, ("module", "label")),
    "held_out": (_held_out, ("module", "label")),
    "important": (_important, ("module", "label", "neurons")),
    "important_layers": (important_layers, ("module",)),
    "ends": (_ends, ("module", "part")),
    "removal": (_removal, ("module", "removed", "evaluated", "how")),
    "neurons": (_neurons, ("neuron", "label", "others", "entropy", "reads", "writes")),
    **CARD_TABLES,
    "tested": (tested, ("claim", "than", "untestable")),
}
