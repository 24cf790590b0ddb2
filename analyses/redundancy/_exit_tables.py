"""Tables of visual_exit: what stays of the answers with the image removed behind each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import IMAGE as ANOTHER
from ..common.frames import joined, summarise
from ..common.tested import nothing, number
from ._exit_rows import READ, TEXT

BLIND = "the image removed before the first layer"
UNITS = {"agreement": "share of tokens", "loss": "nats a token", "allowed": "share of prompts"}
NEEDED = "how long the image is needed"
SWAPPED = "another image's keys and values"
NAMES = {"": "", ANOTHER: SWAPPED, TEXT: TEXT}


def _exits(rows: Rows, how: How) -> pd.DataFrame:
    """measure: agreement, allowed, and the loss more than clean; exit: how many layers still read the image."""
    frames = []
    for control, name in NAMES.items():
        for measure, unit in UNITS.items():
            if f"exit|{control}" in rows.values:
                values = _reading(rows, measure, control)
                axes = {"exit": np.arange(values.shape[1])}
                told: dict[str, Any] = {"measure": measure, "control": name}
                frames.append(summarise(values, rows.examples["group"], axes, unit, **told))
                if not control:
                    floor = np.repeat(values[:, :1], values.shape[1], 1)
                    frames.append(summarise(floor, rows.examples["group"], axes, unit, measure=measure, control=BLIND))
    return joined(frames)


def _reading(rows: Rows, measure: str, control: str = "") -> np.ndarray:
    """[n, exits]; the loss minus the clean one."""
    values = rows[f"exit|{control}"]
    read = values[..., READ.index(measure)]
    return read - values[..., READ.index("clean loss")] if measure == "loss" else read


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    return pd.concat([*_may_go(rows), *_used_before(rows), *_needed(rows)], ignore_index=True)


def _needed(rows: Rows) -> list[pd.DataFrame]:
    """No claim: how many layers have to read the image, so that from there on every exit keeps the answer."""
    groups = rows.examples["group"]
    own, text = (_until(_reading(rows, "agreement", control)) for control in ("", TEXT))
    return [number(NEEDED, own, groups, "layers"), number(NEEDED, own - text, groups, "layers", than=TEXT)]


def _until(agreement: np.ndarray) -> np.ndarray:
    """The first exit from which on all tokens stay, [n]."""
    lost = np.flip(np.maximum.accumulate(np.flip(agreement < 1, 1), 1), 1)
    return np.where(np.isnan(agreement).any(1), np.nan, lost.sum(1))


def _may_go(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "the image may go", rows.examples["group"]
    agreement = _reading(rows, "agreement")
    late = agreement[:, round(2 / 3 * (agreement.shape[1] - 1))]
    return [number(claim, late, groups, "share"), number(claim, late - agreement[:, 0], groups, "share", than=BLIND)]


def _used_before(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "the image is used before", rows.examples["group"]
    costs = [_early_minus_late(_reading(rows, "loss", control)) for control in ("", TEXT)]
    if np.isnan(costs[0]).all():
        return [nothing(claim, "the prompts have no answers")]
    margin = number(claim, costs[0] - costs[1], groups, "nats a token", than=TEXT)
    return [number(claim, costs[0], groups, "nats a token"), margin]


def _early_minus_late(loss: np.ndarray) -> np.ndarray:
    count = loss.shape[1] - 1
    return loss[:, round(count / 4)] - loss[:, round(2 / 3 * count)]


TABLES = {"exits": (_exits, ("exit", "measure")), "tested": (_tested, ("claim", "than", "untestable"))}
