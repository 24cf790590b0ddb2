"""Tables of localisation: scores by layer, methods at the layer that they choose, heads, the numbers of its claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.controls import BOX, HEADS, PERMUTED, QUESTION
from ..common.frames import middle, summarise
from ..common.selection import measured_rows
from ..common.tested import nothing, number
from ..common.thumbnails import ASKED, first_of_groups, picture_table, unmapped
from ._attention_maps import (
    ALL,
    ATTENTION,
    CHOSEN,
    CONTRAST,
    FUSION,
    GAZE,
    GRADIENT,
    RELATIVE,
    TAG,
    TAG_LESS,
    WHOLE,
)
from ._masks import MARKS
from ._rows import CHANGED, GENERAL, LARGEST, LEFT, MIXED, SHOWN, WORDS
from ._scoring import CENTRE, GAUSSIAN, SCORES
from ._state_maps import LENS, MAGNITUDE, PHASE, RAW, TAM

LOOKS = (ATTENTION, RELATIVE, CONTRAST, FUSION, GAZE, GRADIENT)
BY_LAYER = (*LOOKS, LENS, TAM, RAW, MAGNITUDE, PHASE)
CONTROLS = (BOX, QUESTION, GENERAL, MIXED, LEFT, CHANGED, WORDS, HEADS, ALL, LARGEST, CENTRE, GAUSSIAN, PERMUTED)
RATIO, IOU, AUROC = (SCORES.index(name) for name in ("attention ratio", "IoU", "AUROC"))
PICTURES = 4


def _scored(rows: Rows, how: How) -> Rows:
    """The examples that have a box, of groups that no head was chosen on."""
    left = measured_rows(rows, how.learned.selected_on, "localisation")
    left = left.where(left["scored"] > 0)
    if left.examples.empty:
        raise NothingToMeasure(
            f"localisation: no example has one picture of known geometry and exactly one box {how.options.asked!r}"
        )
    return left


def _there(rows: Rows, method: str) -> list[tuple[str, np.ndarray]]:
    """The controls of a method that were measured, "" (itself) first, with their values [n, layers, scores]."""
    return [(c, rows[f"{method}|{c}"]) for c in ("", *CONTROLS) if f"{method}|{c}" in rows.values]


def _scores(rows: Rows, how: How) -> pd.DataFrame:
    """Every score of every method, layer by layer, beside its controls. layer: of attention, or the one that a state
    enters; the last state has the number of layers.
    """
    rows = _scored(rows, how)
    frames = [
        _by_layer(rows, values, "score").assign(method=method, control=control)
        for method in BY_LAYER
        for control, values in _there(rows, method)
    ]
    return _joined(frames)


def _answers(rows: Rows, how: How) -> pd.DataFrame | None:
    """The same of right and of wrong answers apart, beside the controls that other boxes and questions are."""
    rows, frames = _scored(rows, how), []
    for answers, chosen in (("right", rows["right"] == 1), ("wrong", rows["right"] == 0)):
        some = rows.where(chosen)
        if some.examples.empty:
            continue
        for method in LOOKS:
            for control, values in _there(some, method):
                if control in ("", BOX, QUESTION):
                    made = _by_layer(some, values, "score")
                    frames.append(made.assign(method=method, control=control, answers=answers))
    return _joined(frames) if frames else None


def _by_layer(rows: Rows, values: np.ndarray, unit: str) -> pd.DataFrame:
    axes = {"layer": np.arange(values.shape[1]), "score": SCORES}
    return summarise(values, rows.examples["group"], axes, unit)


def _joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    whole = pd.concat(frames, ignore_index=True)
    return whole[whole["n"] > 0].reset_index(drop=True)


def _methods(rows: Rows, how: How) -> pd.DataFrame | None:
    """Each method at the layer whose AUROC is best on one half of the groups, scored on the other.

    measure: "score", or "difference" from the control that is named, example by example. layer: NaN for maps of WHOLE.
    """
    rows = _scored(rows, how)
    if rows.examples["group"].nunique() < 2:
        return None
    axes, frames = {"score": SCORES}, []
    for method, named, half in _chosen(rows):
        some, at = rows.where(half), named.pop("at")
        own, groups = some[f"{method}|"][:, at], some.examples["group"]
        for control, values in _there(some, method):
            beside = values[:, at]
            frames.append(summarise(beside, groups, axes, "score").assign(measure="score", control=control, **named))
            if control:
                frame = summarise(own - beside, groups, axes, "score")
                frames.append(frame.assign(measure="difference", control=control, **named))
    return _joined(frames)


def _methods_by_answer(rows: Rows, how: How) -> pd.DataFrame | None:
    """The same of right and of wrong answers apart, beside other boxes and another question."""
    rows = _scored(rows, how)
    if rows.examples["group"].nunique() < 2:
        return None
    frames = []
    for method, named, half in _chosen(rows):
        at = named.pop("at")
        for answers, chosen in (("right", rows["right"] == 1), ("wrong", rows["right"] == 0)):
            some = rows.where(half & chosen)
            for control, values in _there(some, method) if len(some.examples) else ():
                if control in ("", BOX, QUESTION):
                    frame = summarise(values[:, at], some.examples["group"], {"score": SCORES}, "score")
                    frames.append(frame.assign(control=control, answers=answers, **named))
    return _joined(frames) if frames else None


def _chosen(rows: Rows) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
    """Of each method that was measured its name, its columns with the place of its layer, and the half to score."""
    for method in (*WHOLE, *BY_LAYER):
        if f"{method}|" in rows.values and not np.isnan(rows[f"{method}|"]).all():
            at, half = _choice(rows, f"{method}|")
            yield method, {"method": method, "layer": np.nan if method in WHOLE else at, "at": at}, half


def _masks(rows: Rows, how: How) -> pd.DataFrame | None:
    """IoU of what CARVE and TAG mark with the box, and of the box around that; CARVE's at the window that one half of
    the groups chooses by the mask's, on the other.
    """
    rows, frames = _scored(rows, how), []
    if rows.examples["group"].nunique() < 2:
        return None
    for method in ("CARVE", TAG, TAG_LESS):
        if f"mask {method}|" not in rows.values:
            continue
        at, half = stats.chosen_on(rows[f"mask {method}|"][..., 0], rows.examples["group"].to_numpy(), _best)
        some = rows.where(half)
        layer = np.nan if method in WHOLE else int(at)
        for control, values in _there(some, f"mask {method}"):
            frame = summarise(values[:, int(at)], some.examples["group"], {"marks": MARKS}, "IoU")
            frames.append(frame.assign(method=method, control=control, layer=layer))
    return _joined(frames) if frames else None


def _choice(rows: Rows, name: str) -> tuple[int, np.ndarray]:
    """The layer of best AUROC on one half of the groups, and the other half."""
    found, half = stats.chosen_on(rows[name][..., AUROC], rows.examples["group"].to_numpy(), _best)
    return int(found), half


def _best(some: np.ndarray) -> int:
    """The layer of largest mean, of those that have a number."""
    return int(np.nan_to_num(_mean(some, 0), nan=-np.inf).argmax())


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Of what is there, NaN of nothing."""
    there = ~np.isnan(values)
    return np.nansum(values, axis) / np.where(there.any(axis), there.sum(axis), np.nan)


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """Every score of every head's own map, beside other boxes and another question."""
    rows = _scored(rows, how)
    frames = []
    for control, values in _there(rows, "heads"):
        axes = {"layer": np.arange(values.shape[1]), "head": np.arange(values.shape[2]), "score": SCORES}
        frames.append(summarise(values, rows.examples["group"], axes, "score").assign(control=control))
    return _joined(frames)


def _localizers(rows: Rows, how: How) -> pd.DataFrame | None:
    """The localization heads, and by how many of the prompts that chose them each was counted."""
    heads = how.learned.heads
    if not heads:
        return None
    layers, places = zip(*heads, strict=True)
    return pd.DataFrame({"layer": layers, "head": places, "value": how.learned.share, "unit": "share of prompts"})


# ---------------------------------------------------------------- claims


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    rows = _scored(rows, how)
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
    means = {c: _mean(v[:, layers, RATIO], 1) for c, v in _there(rows, ATTENTION) if c in ("", BOX, QUESTION)}
    return _beside(claim, means.pop(""), means, rows.examples["group"], "attention ratio")


def _contrast(rows: Rows) -> list[pd.DataFrame]:
    alone = {f"{ATTENTION}|": "the question's map alone", f"{ATTENTION}|{GENERAL}": "the general map alone"}
    names = {f"{CONTRAST}|": ""} | alone
    if not set(names) <= set(rows.values) or rows.examples["group"].nunique() < 2:
        return [nothing("contrast", "there is no question to replace, or one group alone")]
    found, half = {}, np.ones(len(rows.examples), bool)
    for name, told in names.items():
        layer, half = _choice(rows, name)
        found[told] = rows[name][half, layer, AUROC]
    return _beside("contrast", found.pop(""), found, rows.examples["group"][half], "AUROC")


def _localise(rows: Rows) -> list[pd.DataFrame]:
    claim = "few heads localise"
    if f"{CHOSEN}|" not in rows.values:
        return [nothing(claim, "no heads were chosen")]
    found = {c: v[:, 0, AUROC] for c, v in _there(rows, CHOSEN) if c in ("", HEADS, ALL, BOX)}
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
    (layer, half), (plain, _) = _choice(rows, f"{GRADIENT}|"), _choice(rows, f"{ATTENTION}|")
    own, beside = rows[f"{GRADIENT}|"][half, layer, AUROC], rows[f"{ATTENTION}|"][half, plain, AUROC]
    return [*found, number(claim, own - beside, rows.examples["group"][half], "AUROC", than="attention alone")]


def _at_its_layer(claim: str, rows: Rows, method: str, controls: tuple[str, ...], why: str) -> list[pd.DataFrame]:
    """AUROC at the layer that one half of the groups chooses, on the other, beside the same layer of controls."""
    if f"{method}|" not in rows.values or rows.examples["group"].nunique() < 2:
        return [nothing(claim, why if f"{method}|" not in rows.values else "there is one group alone")]
    layer, half = _choice(rows, f"{method}|")
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


# ---------------------------------------------------------------- pictures


def _shown(rows: Rows) -> tuple[Rows, np.ndarray] | None:
    known = rows.where(rows["scored"] > 0)
    return None if known.examples.empty else (known, first_of_groups(known, PICTURES))


def _pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    shown = _shown(rows)
    return None if shown is None else picture_table(*shown)


def _on_pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    """The maps of SHOWN over the first pictures; inside: the box."""
    shown = _shown(rows)
    if shown is None:
        return None
    known, frames = shown[0], []
    for i in shown[1]:
        height, width = known["grid"][i].astype(int)
        row, column = (axis.ravel() for axis in np.indices((height, width)))
        y, x, tall, wide = known["box"][i]
        inside = (row >= y) & (row < y + tall) & (column >= x) & (column < x + wide)
        cells = {"example": known.examples["id"].to_numpy()[i], "row": row, "column": column, "inside": inside}
        for method, values in zip(SHOWN, known["maps"][i], strict=True):
            frames.append(pd.DataFrame({**cells, "value": values[: len(row)], "method": method}))
    whole = pd.concat(frames, ignore_index=True).assign(n=1, unit="of the largest")
    return whole[whole["value"].notna()].reset_index(drop=True)


def _unmapped(rows: Rows, how: How) -> pd.DataFrame | None:
    """Pictures without a map, and examples that have one and are left out all the same."""
    found, out = unmapped(rows), rows.where((rows["scored"] == 0) & (rows["unplaced"] == 0)).examples
    if out.empty:
        return found
    asked = how.options.asked.replace("_", " ")
    why = f"Left out: they show several pictures, or have no box of {asked} on the map, or several."
    row = {"n": len(out), "n_groups": out["group"].nunique(), "unit": "examples", "why": why}
    return pd.concat([*([] if found is None else [found]), pd.DataFrame([row])], ignore_index=True)


TABLES = {
    "scores": (_scores, ("method", "score")),
    "answers": (_answers, ("method", "score", "answers")),
    "methods": (_methods, ("method", "score", "measure")),
    "methods_by_answer": (_methods_by_answer, ("method", "score", "answers")),
    "masks": (_masks, ("method", "marks")),
    "heads": (_heads, ("score",)),
    "tested": (_tested, ("claim", "than", "untestable")),
}
RUN_TABLES = {
    "localizers": (_localizers, ()),
    "pictures": (_pictures, ("example", *ASKED, "png")),
    "on_pictures": (_on_pictures, ("example", "row", "column", "inside", "method")),
    "unmapped": (_unmapped, ("why",)),
}
