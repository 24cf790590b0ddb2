"""Tables of `rope_bases`: the next token under each base and their mixtures, by context; weights; claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.frames import joined, places, summarise
from ..common.tested import number
from ._based import MIXED, NEAR, STEP, TRAINED, alone, kinds

Array = NDArray[np.floating]
HELPS, RIGHT, CLOSE = "mixing helps", "the right word gains", "mixing costs little"
UNITS = {"loss": "nats a token", "probability": "probability"}
WHOLE = "all contexts"


def sums(rows: Rows, read: str, kind: str, how: How) -> Array:
    """Σ over the tokens of each example, [n, doubling]."""
    return rows[read][:, kinds(how.options.factors).index(kind)]


def _contexts(rows: Rows) -> Iterator[tuple[str, int, slice]]:
    """Name, least number of tokens that are read, and the doublings: all, then each that some example has."""
    yield WHOLE, 0, slice(None)
    for at in np.flatnonzero(rows["count"].sum(0)):
        yield f"{2**at}–{2 ** (at + 1) - 1} tokens" if at else "1 token", 2 ** int(at), slice(at, at + 1)


def _summary(rows: Rows, how: How, minus: str | None) -> pd.DataFrame:
    """Every kind in every context, minus another kind where one is named."""
    groups, parts = rows.examples["group"], []
    for context, least, at in _contexts(rows):
        counts = rows["count"][:, at].sum(1)
        for read, unit in UNITS.items():
            beside = 0.0 if minus is None else sums(rows, read, minus, how)[:, at].sum(1)
            for kind in (kind for kind in kinds(how.options.factors) if kind != minus):
                values = sums(rows, read, kind, how)[:, at].sum(1) - beside
                names: dict[str, Any] = {"control": NEAR if kind == NEAR else "", "base": kind, "measure": read}
                parts.append(summarise(values, groups, {}, unit, denominators=counts, **names, context=context))
                parts[-1]["tokens"] = least
    return joined(parts)


def _levels(rows: Rows, how: How) -> pd.DataFrame:
    """Loss of the next token, and the probability that it gets, mean over tokens."""
    return _summary(rows, how, None)


def _changes(rows: Rows, how: How) -> pd.DataFrame:
    """The same minus the trained base's, token by token."""
    return _summary(rows, how, TRAINED)


def _weights(rows: Rows, how: How) -> pd.DataFrame:
    """What each base weighs in the mixture, mean over tokens; alike: 1 over their number."""
    counts, groups = rows["count"].sum(1), rows.examples["group"]
    names, factors = {"denominators": counts, "unit": "weight"}, how.options.factors
    own = summarise(rows["weight"], groups, {"base": [alone(one) for one in factors]}, control="", **names)
    alike = np.repeat(counts[:, None], len(factors), 1) / len(factors)
    even = summarise(alike, groups, {"base": [alone(one) for one in factors]}, control="all alike", **names)
    return joined([own, even])


def _waveform(rows: Rows, how: How) -> pd.DataFrame | None:
    """What each base makes of distance alone: the score of a query and a key that are all ones."""
    waves = rows.weights.get("waveform")
    if waves is None:
        return None
    axes = {"base": [alone(one) for one in how.options.factors], "distance": STEP * np.arange(waves.shape[1])}
    return pd.DataFrame({**places(axes, waves.shape), "value": waves.ravel(), "unit": "score", "control": ""})


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups, counts = rows.examples["group"], rows["count"].sum(1)
    largest = alone(max(how.options.factors))

    def gap(claim: str, read: str, kind: str, than: str = "") -> pd.DataFrame:
        """Of the mixture minus `kind`."""
        values = (sums(rows, read, MIXED, how) - sums(rows, read, kind, how)).sum(1)
        return number(claim, values, groups, UNITS[read], denominators=counts, than=than)

    parts = [
        *(gap(HELPS, "loss", kind, than) for kind, than in ((TRAINED, ""), (NEAR, NEAR))),
        *(gap(RIGHT, "probability", kind, than) for kind, than in ((TRAINED, ""), (NEAR, NEAR))),
        *(gap(CLOSE, "loss", kind, than) for kind, than in ((TRAINED, ""), (largest, largest))),
    ]
    return pd.concat(parts, ignore_index=True)


TABLES = {
    "changes": (_changes, ("base", "context", "tokens", "measure")),
    "levels": (_levels, ("base", "context", "tokens", "measure")),
    "weights": (_weights, ("base",)),
    "tested": (_tested, ("claim", "than", "untestable")),
}
RUN_TABLES = {"waveform": (_waveform, ("base", "distance"))}
