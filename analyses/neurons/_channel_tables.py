"""In which layers neurons and channels lie that matter to the texts of one label alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import PERMUTED_IN_FOLDS
from ..common.frames import joined
from ._counts import KEYS, QUERIES, TEXT
from ._statistics import by_folds, important_more, permuted_mean, plain
from ._units import Units, each_part


def important_layers(rows: Rows, how: How) -> pd.DataFrame | None:
    """To how many more of their own label's texts a layer's neurons (or channels) matter than to the others', summed
    over those that were chosen on other texts; in units of all of the layer's. Only where channels were measured.
    """
    return each_part(rows, how, (TEXT, QUERIES, KEYS), _of_part) if QUERIES in how.learned.beside else None


def _of_part(units: Units, how: How) -> pd.DataFrame | None:
    own, width = how.learned.always, units.important.shape[2]
    if not any(map(len, own)):
        return None
    axes: dict[str, Any] = {"layer": np.arange(units.important.shape[1])}
    table = by_folds(units, lambda w: important_more(units, own, w) / width, axes, "share of the layer", control="")
    chance = permuted_mean(units, lambda label: important_more(units, own, None, label) / width)
    return joined([table, plain(table, chance).assign(control=PERMUTED_IN_FOLDS)])
