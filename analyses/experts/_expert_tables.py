"""Tables of experts: load, entropies of gates, experts without a token, overlap of labels, what a removal costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import DRAWS, EXPERTS, EXPERTS_SHUFFLED, PERMUTED_LABELS, permuted_labels
from ..common.folds import folds_of, over_folds
from ..common.frames import joined, summarise
from ..common.labels import label_column
from ._expert_rows import HOW
from ._expert_sums import Sums
from ._expert_tested import tested

ALL = "all"
LOADS = {"chosen": "tokens", "given": "weight"}  # rows -> measure
SPREAD = ("a token's gates", "mean gates", "information")
LN = "share of ln experts"


def _load(rows: Rows, how: How) -> pd.DataFrame:
    """The share of tokens for which each expert is chosen, and its mean weight; by label and of all texts."""
    own, parts = label_column(rows, how.options.by), []
    experts = rows["chosen"].shape[2]
    axes: dict[str, Any] = {"layer": np.arange(rows["chosen"].shape[1]), "expert": np.arange(experts)}
    for label in (ALL, *how.learned.labels):
        mine = own == label if label != ALL else np.ones(len(own), bool)
        for name, measure in LOADS.items():
            if mine.any():
                groups, tokens = rows.examples["group"].to_numpy()[mine], rows["tokens"][mine]
                named = {"label": label, "measure": measure, "even": how.learned.k / experts}
                unit = "share of tokens" if measure == "tokens" else "weight"
                parts.append(summarise(rows[name][mine], groups, axes, unit, denominators=tokens, n_boot=200, **named))
    return joined(parts)


def _entropy(rows: Rows, how: How) -> pd.DataFrame:
    """Entropy of a token's gates, of the mean gates and their difference, by layer."""
    sums, fold = Sums(rows, how.learned, how.options.by), folds_of(rows.examples["group"])
    own = over_folds(sums.spread, fold, {"layer": sums.layers.tolist(), "measure": SPREAD}, LN, control="")
    chance = own[own["measure"] != SPREAD[0]].copy()
    each = own[own["measure"] == SPREAD[0]]["value"].to_numpy()
    even = np.stack([np.ones(len(each)), 1 - each], -1).ravel()  # mean gates are even, a token's are as they were
    return joined([own, chance.assign(value=even, lower=np.nan, upper=np.nan, control=EXPERTS_SHUFFLED)])


def _never(rows: Rows, how: How) -> pd.DataFrame:
    """The share of all experts that no token went to, after so many texts."""
    sums, fold = Sums(rows, how.learned, how.options.by), folds_of(rows.examples["group"])
    n = len(fold)
    sizes = sorted({2**i for i in range(n.bit_length()) if 2**i < n} | {n})
    _, tokens = sums.never_by_texts(np.ones(n), sizes)
    own = over_folds(lambda w: sums.never_by_texts(w, sizes)[0], fold, {"texts": sizes}, "share of experts", control="")
    own = own.assign(lower=own["lower"].clip(0.0, 1.0), upper=own["upper"].clip(0.0, 1.0))
    chance = (1 - sums.k / sums.n_experts) ** tokens
    null = own.assign(value=chance, lower=np.nan, upper=np.nan, control=EXPERTS_SHUFFLED)
    return pd.concat([own.assign(tokens=tokens), null.assign(tokens=tokens)], ignore_index=True)


def _overlap(rows: Rows, how: How) -> pd.DataFrame | None:
    """How alike the busiest experts of two labels are, of different groups; and with permuted labels."""
    sums, labels = Sums(rows, how.learned, how.options.by), how.learned.labels
    if not len(labels) or not sums.first.any():
        return None
    fold, axes = folds_of(sums.groups), {"label": labels, "other": labels}
    own = over_folds(sums.shared, fold, axes, "Jaccard", control="")
    own = own.assign(lower=own["lower"].clip(0.0, 1.0), upper=own["upper"].clip(0.0, 1.0))  # sets change in steps
    draws = [permuted_labels(sums.label, sums.groups, draw) for draw in range(DRAWS)]
    chance = np.mean([sums.shared(np.ones(len(fold)), label) for label in draws], 0).ravel()
    null = own.assign(value=chance, lower=np.nan, upper=np.nan, control=PERMUTED_LABELS)
    return pd.concat([own, null], ignore_index=True)


def _experts(rows: Rows, how: How) -> pd.DataFrame | None:
    """The experts that held-out texts of each label go to most: load in its own texts of this run, and the others'."""
    sums, parts = Sums(rows, how.learned, how.options.by), []
    load = sums.load(np.ones(len(sums.label)), sums.label) if sums.labels else np.zeros(0)
    places = {int(layer): i for i, layer in enumerate(sums.layers)}
    for i, label in enumerate(sums.labels):
        for layer, expert in how.learned.specific[i]:
            own = load[:, places[layer], expert]
            others = float(np.delete(own, i).mean())
            told = {"layer": layer, "expert": expert, "label": label, "value": float(own[i]), "others": others}
            parts.append(told | {"n": int((sums.label == i).sum()), "unit": "share of tokens"})
    return pd.DataFrame(parts) if parts else None


def _removal(rows: Rows, how: How) -> pd.DataFrame | None:
    """How much more the loss of each label's texts is without the experts of each label, or without random ones."""
    if "removed" not in rows.values:
        return None
    own, frames = label_column(rows, how.options.by), []
    axes: dict[str, Any] = {"removed": how.learned.labels, "how": HOW}
    for label in how.learned.labels:
        mine = own == label
        if mine.any():
            groups = rows.examples["group"].to_numpy()[mine]
            frames.append(summarise(rows["removed"][mine], groups, axes, "nats a token", evaluated=label))
    table = joined(frames)
    random = table["how"] == EXPERTS
    return table.assign(control=np.where(random, EXPERTS, "")).drop(columns="how") if len(table) else None


TABLES = {
    "load": (_load, ("expert", "label", "measure", "even")),
    "never": (_never, ("texts", "tokens")),
    "entropy": (_entropy, ("measure",)),
    "overlap": (_overlap, ("label", "other")),
    "experts": (_experts, ("expert", "label", "others")),
    "removal": (_removal, ("removed", "evaluated")),
    "tested": (tested, ("claim", "than", "untestable")),
}
