"""Tables of `module_lens`: entropy by module, layer and kind of token, also by label, and the numbers of claims."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import NOISE
from ..common.frames import joined, mean_of_present, summarise
from ..common.labels import label_column
from ..common.tested import nothing, number
from ._module_rows import KINDS, SITES_READ

LESS_SURE, MAKE_SURE = "image tokens less sure", "MLPs make sure"


def _curves(rows: Rows) -> Iterator[pd.DataFrame]:
    for name in SITES_READ:
        for kind in KINDS:
            for control, values in (("", rows[f"{name}|{kind}"]), (NOISE, rows[f"{name}|{kind}|noise"])):
                axes = {"layer": np.arange(values.shape[1])}
                frame = summarise(values, rows.examples["group"], axes, "nats", control=control)
                yield frame.assign(module=name, tokens=kind)


def _entropy(rows: Rows, how: How) -> pd.DataFrame:
    return joined(_curves(rows))


def _by_label(rows: Rows, how: How) -> pd.DataFrame | None:
    """The same for the examples of each label."""
    labels = label_column(rows, how.options.by)
    names = sorted({*labels} - {""})
    if len(names) < 2:
        return None
    return joined(frame.assign(label=name) for name in names for frame in _curves(rows.where(labels == name)))


def _late(values: np.ndarray) -> np.ndarray:
    """Mean over the second half of the layers, [n]."""
    return mean_of_present(values[:, values.shape[1] // 2 :], 1)


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups, block, mid = rows.examples["group"], "behind the block", "behind attention"
    own, noise = (
        _late(rows[f"{block}|image{control}"]) - _late(rows[f"{block}|text{control}"]) for control in ("", "|noise")
    )
    before = _late(rows[f"{mid}|text"])
    change, still = (_late(rows[f"{block}|text{control}"]) - before for control in ("", "|noise"))
    return pd.concat(
        [
            *_numbers(LESS_SURE, own, noise, groups, "there are no image tokens"),
            *_numbers(MAKE_SURE, change, still, groups, "its blocks have no state between attention and MLP"),
        ],
        ignore_index=True,
    )


def _numbers(claim: str, own: np.ndarray, noise: np.ndarray, groups: pd.Series, without: str) -> list[pd.DataFrame]:
    if np.isnan(own).all():
        return [nothing(claim, without)]
    return [number(claim, own, groups, "nats"), number(claim, own - noise, groups, "nats", than=NOISE)]


TABLES = {
    "entropy": (_entropy, ("module", "tokens")),
    "by_label": (_by_label, ("module", "tokens", "label")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
