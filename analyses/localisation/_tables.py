"""Tables of localisation: scores by layer, methods at the layer that they choose, heads, the numbers of its claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.controls import BOX, QUESTION
from ..common.frames import joined, summarise
from ..common.thumbnails import ASKED, first_of_groups, picture_table, unmapped
from ._attention_maps import TAG, TAG_LESS, WHOLE
from ._chosen import BY_LAYER, LOOKS, best, choice, scored, there
from ._masks import MARKS
from ._rows import SHOWN
from ._scoring import SCORES
from ._tested import tested

PICTURES = 4


def _scores(rows: Rows, how: How) -> pd.DataFrame:
    """Every score of every method, layer by layer, beside its controls. layer: of attention, or the one that a state
    enters; the last state has the number of layers.
    """
    rows = scored(rows, how)
    frames = [
        _by_layer(rows, values, "score").assign(method=method, control=control)
        for method in BY_LAYER
        for control, values in there(rows, method)
    ]
    return joined(frames)


def _answers(rows: Rows, how: How) -> pd.DataFrame | None:
    """The same of right and of wrong answers apart, beside the controls that other boxes and questions are."""
    rows, frames = scored(rows, how), []
    for answers, chosen in (("right", rows["right"] == 1), ("wrong", rows["right"] == 0)):
        some = rows.where(chosen)
        if some.examples.empty:
            continue
        for method in LOOKS:
            for control, values in there(some, method):
                if control in ("", BOX, QUESTION):
                    made = _by_layer(some, values, "score")
                    frames.append(made.assign(method=method, control=control, answers=answers))
    return joined(frames) if frames else None


def _by_layer(rows: Rows, values: np.ndarray, unit: str) -> pd.DataFrame:
    axes = {"layer": np.arange(values.shape[1]), "score": SCORES}
    return summarise(values, rows.examples["group"], axes, unit)


def _methods(rows: Rows, how: How) -> pd.DataFrame | None:
    """Each method at the layer whose AUROC is best on one half of the groups, scored on the other.

    measure: "score", or "difference" from the control that is named, example by example. layer: NaN for maps of WHOLE.
    """
    rows = scored(rows, how)
    if rows.examples["group"].nunique() < 2:
        return None
    axes, frames = {"score": SCORES}, []
    for method, named, half in _chosen(rows):
        some, at = rows.where(half), named.pop("at")
        own, groups = some[f"{method}|"][:, at], some.examples["group"]
        for control, values in there(some, method):
            beside = values[:, at]
            frames.append(summarise(beside, groups, axes, "score").assign(measure="score", control=control, **named))
            if control:
                frame = summarise(own - beside, groups, axes, "score")
                frames.append(frame.assign(measure="difference", control=control, **named))
    return joined(frames)


def _methods_by_answer(rows: Rows, how: How) -> pd.DataFrame | None:
    """The same of right and of wrong answers apart, beside other boxes and another question."""
    rows = scored(rows, how)
    if rows.examples["group"].nunique() < 2:
        return None
    frames = []
    for method, named, half in _chosen(rows):
        at = named.pop("at")
        for answers, chosen in (("right", rows["right"] == 1), ("wrong", rows["right"] == 0)):
            some = rows.where(half & chosen)
            for control, values in there(some, method) if len(some.examples) else ():
                if control in ("", BOX, QUESTION):
                    frame = summarise(values[:, at], some.examples["group"], {"score": SCORES}, "score")
                    frames.append(frame.assign(control=control, answers=answers, **named))
    return joined(frames) if frames else None


def _chosen(rows: Rows) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
    """Of each method that was measured its name, its columns with the place of its layer, and the half to score."""
    for method in (*WHOLE, *BY_LAYER):
        if f"{method}|" in rows.values and not np.isnan(rows[f"{method}|"]).all():
            at, half = choice(rows, f"{method}|")
            yield method, {"method": method, "layer": np.nan if method in WHOLE else at, "at": at}, half


def _masks(rows: Rows, how: How) -> pd.DataFrame | None:
    """IoU of what CARVE and TAG mark with the box, and of the box around that; CARVE's at the window that one half of
    the groups chooses by the mask's, on the other.
    """
    rows, frames = scored(rows, how), []
    if rows.examples["group"].nunique() < 2:
        return None
    for method in ("CARVE", TAG, TAG_LESS):
        if f"mask {method}|" not in rows.values:
            continue
        at, half = stats.chosen_on(rows[f"mask {method}|"][..., 0], rows.examples["group"].to_numpy(), best)
        some = rows.where(half)
        layer = np.nan if method in WHOLE else int(at)
        for control, values in there(some, f"mask {method}"):
            frame = summarise(values[:, int(at)], some.examples["group"], {"marks": MARKS}, "IoU")
            frames.append(frame.assign(method=method, control=control, layer=layer))
    return joined(frames) if frames else None


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """Every score of every head's own map, beside other boxes and another question."""
    rows = scored(rows, how)
    frames = []
    for control, values in there(rows, "heads"):
        axes = {"layer": np.arange(values.shape[1]), "head": np.arange(values.shape[2]), "score": SCORES}
        frames.append(summarise(values, rows.examples["group"], axes, "score").assign(control=control))
    return joined(frames)


def _localizers(rows: Rows, how: How) -> pd.DataFrame | None:
    """The localization heads, and by how many of the prompts that chose them each was counted."""
    heads = how.learned.heads
    if not heads:
        return None
    layers, places = zip(*heads, strict=True)
    return pd.DataFrame({"layer": layers, "head": places, "value": how.learned.share, "unit": "share of prompts"})


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
    "tested": (tested, ("claim", "than", "untestable")),
}
RUN_TABLES = {
    "localizers": (_localizers, ()),
    "pictures": (_pictures, ("example", *ASKED, "png")),
    "on_pictures": (_on_pictures, ("example", "row", "column", "inside", "method")),
    "unmapped": (_unmapped, ("why",)),
}
