"""Table tested: the numbers that the claims of localisation are about, each beside its controls."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import BOX, HEADS, QUESTION
from ..common.frames import middle
from ..common.tested import nothing, number
from ._attention_maps import ALL, ATTENTION, CHOSEN, CONTRAST, GAZE, GRADIENT, TAG
from ._chosen import AUROC, IOU, RATIO, choice, mean_of, scored, there
from ._rows import GENERAL, LEFT, MIXED, WORDS
from ._state_maps import RAW, TAM


def tested(rows: Rows, how: How) -> pd.DataFrame:
    rows = scored(rows, how)
    wrong = rows.where(rows["right"] == 0)
    frames = [
        *_looks("looks at it", rows),
        *_looks("looks at it when wrong", wrong),
        *_contrast(rows),
        *_localise(rows),
        *_shift(rows),
        *_grounded(rows),
        *_gradient(rows),
        *_interference(rows),
    ]
    return pd.concat(frames, ignore_index=True)


def _looks(claim: str, rows: Rows) -> list[pd.DataFrame]:
    if rows.examples.empty:
        return [nothing(claim, "no wrong answers here")]
    layers = middle(rows[f"{ATTENTION}|"].shape[1])
    means = {c: mean_of(v[:, layers, RATIO], 1) for c, v in there(rows, ATTENTION) if c in ("", BOX, QUESTION)}
    return _beside(claim, means.pop(""), means, rows.examples["group"], "attention ratio")


def _contrast(rows: Rows) -> list[pd.DataFrame]:
    alone = {f"{ATTENTION}|": "the question's map alone", f"{ATTENTION}|{GENERAL}": "the general map alone"}
    names = {f"{CONTRAST}|": ""} | alone
    if not set(names) <= set(rows.values) or rows.examples["group"].nunique() < 2:
        return [nothing("contrast", "there is no question to replace, or one group alone")]
    found, half = {}, np.ones(len(rows.examples), bool)
    for name, told in names.items():
        layer, half = choice(rows, name)
        found[told] = rows[name][half, layer, AUROC]
    return _beside("contrast", found.pop(""), found, rows.examples["group"][half], "AUROC")


def _localise(rows: Rows) -> list[pd.DataFrame]:
    claim = "few heads localise"
    if f"{CHOSEN}|" not in rows.values:
        return [nothing(claim, "no heads were chosen")]
    found = {c: v[:, 0, AUROC] for c, v in there(rows, CHOSEN) if c in ("", HEADS, ALL, BOX)}
    missing = {c: np.full(len(rows.examples), np.nan) for c in (HEADS, ALL, BOX) if c not in found}
    return _beside(claim, found.pop(""), found | missing, rows.examples["group"], "AUROC")


def _shift(rows: Rows) -> list[pd.DataFrame]:
    return _at_its_layer("gaze shift", rows, GAZE, (MIXED, LEFT, BOX, QUESTION), "there are no words of a question")


def _grounded(rows: Rows) -> list[pd.DataFrame]:
    return _at_its_layer("words ground", rows, TAG, (GENERAL, BOX, QUESTION), "there are no words of a question")


def _gradient(rows: Rows) -> list[pd.DataFrame]:
    claim = "gradients help"
    found = _at_its_layer(claim, rows, GRADIENT, (BOX, QUESTION), "no gradients were asked for")
    if f"{GRADIENT}|" not in rows.values or found[0]["untestable"].item():
        return found
    (layer, half), (plain, _) = choice(rows, f"{GRADIENT}|"), choice(rows, f"{ATTENTION}|")
    own, beside = rows[f"{GRADIENT}|"][half, layer, AUROC], rows[f"{ATTENTION}|"][half, plain, AUROC]
    return [*found, number(claim, own - beside, rows.examples["group"][half], "AUROC", than="attention alone")]


def _at_its_layer(claim: str, rows: Rows, method: str, controls: tuple[str, ...], why: str) -> list[pd.DataFrame]:
    """AUROC at the layer that one half of the groups chooses, on the other, beside the same layer of controls."""
    if f"{method}|" not in rows.values or rows.examples["group"].nunique() < 2:
        return [nothing(claim, why if f"{method}|" not in rows.values else "there is one group alone")]
    layer, half = choice(rows, f"{method}|")
    missing = np.full(int(half.sum()), np.nan)
    found = {
        c: rows[f"{method}|{c}"][half, layer, AUROC] if f"{method}|{c}" in rows.values else missing for c in controls
    }
    return _beside(claim, rows[f"{method}|"][half, layer, AUROC], found, rows.examples["group"][half], "AUROC")


def _interference(rows: Rows) -> list[pd.DataFrame]:
    needed = [f"{method}|{control}" for method in (TAM, RAW) for control in ("", WORDS)]
    if not set(needed) <= set(rows.values):
        return [nothing("interference", "no maps of words were made")]
    own, words, raw, raw_words = (rows[name][:, -1, IOU] for name in needed)
    return _beside("interference", own - raw, {WORDS: words - raw_words}, rows.examples["group"], "IoU")


def _beside(
    claim: str, own: np.ndarray, controls: dict[str, np.ndarray], groups: pd.Series, unit: str
) -> list[pd.DataFrame]:
    """The number, and its margin over each control, example by example."""
    margins = [number(claim, own - values, groups, unit, than=name) for name, values in controls.items()]
    return [number(claim, own, groups, unit), *margins]
