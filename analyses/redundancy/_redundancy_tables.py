"""Tables of redundancy: how far modules turn the residual, what leaving them out costs, and what tells it before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.frames import by_head, joined, summarise
from ._importance import INSIDE, KINDS, NULLS, SHARES
from ._redundancy_ranks import predictions, transfer
from ._redundancy_tested import tested
from ._skips import LEFT_OUT, ORDERS, READ

UNITS = {"loss": "nats a token", "top-1": "share of tokens"}
CONTROLS = ("", "an orthogonal update of equal norm", "updates of other tokens")
EQUAL, MEAN, BLIND = "equal energies", "its mean update in its place", "without the image"


def _importance(rows: Rows, how: How) -> pd.DataFrame:
    """1 − cos of the residual before and after a module, by layer."""
    frames = []
    for k, kind in enumerate(KINDS):
        for j, control in enumerate(CONTROLS[: len(NULLS)]):
            values = rows["turned"][:, :, k, j]
            frames.append(by_head(rows, values, "1 − cos", part=kind, control=control))
    return joined(frames)


def _skips(rows: Rows, how: How) -> pd.DataFrame:
    """What leaving one module out costs, by layer: the loss, and the share of tokens that are right."""
    return joined(
        _costs(
            rows,
            [(f"{name}|{kind}", kind, control) for kind in KINDS for name, control in (("skip", ""), ("mean", MEAN))],
        )
    )


def _costs(rows: Rows, wanted: list[tuple[str, str, str]], clean: str = "clean") -> Iterator[pd.DataFrame]:
    for name, kind, control in wanted:
        if name in rows.values:
            cost = rows[name] - rows[clean][:, None]
            for j, measure in enumerate(READ):
                yield by_head(rows, cost[..., j], UNITS[measure], part=kind, measure=measure, control=control)


def _curves(rows: Rows, how: How) -> pd.DataFrame:
    """What leaving out a share of the layers costs, in three orders; the random one is the control."""
    frames = []
    for kind in (kind for kind in KINDS if f"curve|{kind}" in rows.values):
        cost = rows[f"curve|{kind}"] - rows["clean"][:, None, None]
        for (i, order), (j, measure) in ((o, m) for o in enumerate(ORDERS) for m in enumerate(READ)):
            told: dict[str, Any] = {"part": kind, "order": order, "measure": measure}
            told["control"] = "random order" if order == "random" else ""
            values, axes = cost[:, i, :, j], {"share": LEFT_OUT}
            frames.append(summarise(values, rows.examples["group"], axes, UNITS[measure], **told))
    return joined(frames)


def _energies(rows: Rows, how: How) -> pd.DataFrame:
    """Which share of the energy the largest dimensions hold, without the first token."""
    frames, energy = [], rows["energy"]
    for i, inside in enumerate(INSIDE):
        values = energy[:, :, i]
        axes = {"layer": np.arange(values.shape[1]), "share": SHARES}
        even = np.where(np.isnan(values), np.nan, np.array(SHARES))
        for one, control in ((values, ""), (even, EQUAL)):
            frames.append(
                summarise(one, rows.examples["group"], axes, "share of energy", inside=inside, control=control)
            )
    return joined(frames)


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """TransAct's score of each head over the mean of all heads of the layer, without the first token."""
    energy = rows["head energy"]
    lift = stats.quotient(energy, np.broadcast_to(energy.mean(2, keepdims=True), energy.shape))
    return joined([by_head(rows, lift, "times the layer's mean")])


def _entropy(rows: Rows, how: How) -> pd.DataFrame | None:
    """Transfer entropy by layer: how far leaving out its attention changes the entropy of the last features."""
    found = [(name, transfer(rows, name)) for name in ("skip", "mean")]
    frames = []
    for name, one in found:
        if one is not None:
            places = {"layer": np.arange(len(one.value)), "control": MEAN if name == "mean" else "", "unit": "nats"}
            counts = {"n": len(rows.examples), "n_groups": rows.examples["group"].nunique()}
            frames.append(pd.DataFrame(places | dict(zip(("value", "lower", "upper"), one, strict=True)) | counts))
    table = pd.concat(frames, ignore_index=True) if frames else None
    return None if table is None else table[table["value"].notna()].reset_index(drop=True)


def _vision(rows: Rows, how: How) -> pd.DataFrame | None:
    """What leaving out a block costs with the image, and what it costs without it."""
    if "blind|block" not in rows.values:
        return None
    seen, blind = (
        _costs(rows, [("skip|block", "block", "")]),
        _costs(rows, [("blind|block", "block", BLIND)], "blind clean"),
    )
    return joined([*seen, *blind]).drop(columns="part")


TABLES = {
    "importance": (_importance, ("part",)),
    "skips": (_skips, ("part", "measure")),
    "curves": (_curves, ("part", "order", "share", "measure")),
    "predictions": (predictions, ("part", "predictor")),
    "energies": (_energies, ("inside", "share")),
    "heads": (_heads, ()),
    "entropy": (_entropy, ()),
    "vision": (_vision, ("measure",)),
    "tested": (tested, ("claim", "than", "untestable")),
}
