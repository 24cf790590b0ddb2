"""How far two models' relations lie apart, layer by layer, and what is tested."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...probes.model.naming import called
from ...probes.runs.results import How, Rows
from ..common.controls import RANDOM_WEIGHTS
from ..common.frames import joined, mean_of_present, summarise
from ..common.stats import quotient
from ..common.tested import nothing, number
from ._relations_rows import KINDS, TEXT

NEAR, UPPER = "related models relate alike", "the upper layers were changed most"
NATS, SHARE = "nats", "of the divergence of another text"
DEEPER = "upper minus lower half, over their mean"
OTHER = "the other model"
NO_TEXT = "the task has no other text to hold out"


def named(control: str) -> str:
    return f"relations|{control}" if control else "relations"


def controls(rows: Rows) -> list[str]:
    """ "" and the controls that were measured."""
    return [name for name in ("", RANDOM_WEIGHTS, TEXT) if named(name) in rows.values]


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """Each layer's divergence, of queries, keys and values, beside the controls."""
    return _of_layers(rows, None, NATS, controls(rows)).assign(reference=other(how))


def _shares(rows: Rows, how: How) -> pd.DataFrame | None:
    """The same in units of what another text makes of the layer: scores are larger in some layers than in others."""
    if named(TEXT) not in rows.values:
        return None
    return _of_layers(rows, rows[named(TEXT)], SHARE, [name for name in controls(rows) if name != TEXT]).assign(
        reference=other(how)
    )


def other(how: How) -> str:
    """The other model's name, never the path that it lies at."""
    return called(how.options.reference) or OTHER


def _of_layers(rows: Rows, below: np.ndarray | None, unit: str, names: list[str]) -> pd.DataFrame:
    groups, layers = rows.examples["group"], range(rows["relations"].shape[1])
    return joined(
        [
            summarise(
                rows[named(name)][:, :, at],
                groups,
                {"layer": layers},
                unit,
                denominators=None if below is None else below[:, :, at],
                kind=kind,
                control=name,
            )
            for at, kind in enumerate(KINDS)
            for name in names
        ]
    )


# ---------------------------------------------------------------- the numbers of the claims


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    return pd.concat([*_near(rows), *_upper(rows)], ignore_index=True)


def _near(rows: Rows) -> Iterator[pd.DataFrame]:
    """Divergence over that of another text, means over layers and kinds."""
    if named(TEXT) not in rows.values:
        yield nothing(NEAR, NO_TEXT)
        return
    groups, text = rows.examples["group"], _mean(rows[named(TEXT)])
    own, random = _mean(rows["relations"]), _mean(rows[named(RANDOM_WEIGHTS)])
    yield number(NEAR, own, groups, SHARE, denominators=text)
    yield number(NEAR, own - random, groups, SHARE, denominators=text, than=RANDOM_WEIGHTS)


def _upper(rows: Rows) -> Iterator[pd.DataFrame]:
    groups, deeper = rows.examples["group"], {name: _deeper(rows[named(name)]) for name in controls(rows)}
    yield number(UPPER, deeper[""], groups, DEEPER)
    for name in [name for name in deeper if name]:
        yield number(UPPER, deeper[""] - deeper[name], groups, DEEPER, than=name)


def _mean(values: np.ndarray) -> np.ndarray:
    """[n]: over layers that have heads, and kinds."""
    return mean_of_present(values.reshape(len(values), -1))


def _deeper(values: np.ndarray) -> np.ndarray:
    """[n]: how much larger the upper half of the layers is than the lower."""
    half = values.shape[1] // 2
    lower, upper = _mean(values[:, :half]), _mean(values[:, values.shape[1] - half :])
    return quotient(upper - lower, (upper + lower) / 2)


TABLES = {
    "layers": (_layers, ("kind", "reference")),
    "shares": (_shares, ("kind", "reference")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
