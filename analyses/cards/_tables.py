"""The tables of the subject card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...data.subjects import scenes_model
from ...data.tasks import scenes
from ...data.world.questions import POPE
from ...data.world.render import render
from ...probes.runs.results import Rows
from ..common import stats
from ..common.frames import order_columns, summarise
from ..common.hallucination import UNITS, chair_ratios, pope_ratios
from ..common.thumbnails import png
from ._claims import bars
from ._text_ability import text_table

CONTROLS = {"real": "", "swapped": "swapped image", "blank": "blank image"}
CONSTANT = "best constant answer"


def make_tables(rows: Rows, text: Sequence[Sequence[Any]]) -> dict[str, pd.DataFrame]:
    """accuracy, pope, captions, text, bars (what the claims are about), training, samples. All but the last two have
    value, lower, upper, n, n_groups, unit; all but text, training and samples condition; the first three difficulty.
    """
    common = {"text": text_table(text), "training": training_table(scenes_model.training_log())} if text else {}
    made: dict[str, list[pd.DataFrame]] = {}
    for condition, mine in rows.conditions():
        constant = _constant(mine.examples)
        measured = _by_kind(mine, constant)
        measured["bars"] = bars(mine, measured | common, constant)
        for name, table in measured.items():
            made.setdefault(name, []).append(table.assign(condition=condition))
    joined = {name: order_columns(pd.concat(frames, ignore_index=True)) for name, frames in made.items()}
    return joined | common | {"samples": _samples(rows)}


def _by_kind(rows: Rows, constant: np.ndarray) -> dict[str, pd.DataFrame]:
    """accuracy, pope, captions of one condition."""
    made: dict[str, list[pd.DataFrame]] = {}
    cells = rows.examples.groupby(["difficulty", "kind"], sort=False).indices
    for (difficulty, kind), at in cells.items():  # pyright: ignore[reportGeneralTypeIssues]
        chosen = np.zeros(len(rows.examples), bool)
        chosen[at] = True
        part, where = rows.where(chosen), {"difficulty": difficulty}
        made.setdefault("accuracy", []).append(_accuracy(part, constant[chosen]).assign(kind=kind, **where))
        if kind in POPE:
            made.setdefault("pope", []).append(_pope(part).assign(set=kind.removeprefix("pope_"), **where))
        if kind == "caption":
            made.setdefault("captions", []).append(_captions(part).assign(**where))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in made.items()}


def training_table(log: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """stage step measure value unit n: the losses of single steps and the accuracies on validation scenes."""
    found = [
        {"stage": row["stage"], "step": row["step"] + 1, "measure": name, "value": value, "unit": _unit(name)}
        for row in log
        for name, value in row.items()
        if name not in ("stage", "step", "seconds")
    ]
    return pd.DataFrame(found, columns=["stage", "step", "measure", "value", "unit"])


def _unit(name: str) -> str:
    return "share" if name.startswith("validation") or name == "right" else "loss"


def _constant(examples: pd.DataFrame) -> np.ndarray:
    """Whether the best constant answer to an example's wording is its own, 0 or 1; NaN for captions.

    It is the most frequent one on the other half of the scenes, to that wording, or to that kind where the other half
    lacks the wording: chosen on the examples that it is scored on, it would be right more often than it is.
    """
    right = np.full(len(examples), np.nan)
    if examples["group"].nunique() < 2:
        return right
    first, second = stats.split_half(examples["group"])
    keys = [["difficulty", "kind", "question"], ["difficulty", "kind"]]
    for mine, others in ((first, second), (second, first)):
        modes = [examples[others].groupby(key)["answer"].agg(lambda told: told.mode().iloc[0]) for key in keys]
        by_wording, by_kind = (
            examples[mine].join(m.rename("best"), on=k)["best"] for k, m in zip(keys, modes, strict=True)
        )
        best = by_wording.fillna(by_kind)
        right[mine] = np.where(best.isna(), np.nan, best == examples.loc[mine, "answer"])
    right[(examples["kind"] == "caption").to_numpy()] = np.nan
    return right


def _accuracy(part: Rows, constant: np.ndarray) -> pd.DataFrame:
    groups = part.examples["group"]
    answers = {control: part[f"right|{image}"] for image, control in CONTROLS.items()} | {CONSTANT: constant}
    frames = [
        summarise(right, groups, {}, "share").assign(control=control)
        for control, right in answers.items()
        if not np.isnan(right).all()
    ]
    return pd.concat(frames, ignore_index=True)


def _pope(part: Rows) -> pd.DataFrame:
    ratios = pope_ratios(part["yes"] == 1, part.examples["answer"] == "yes")
    frames = [
        summarise(ratio[0], part.examples["group"], {}, "share", denominators=ratio[1]).assign(measure=name)
        for name, ratio in ratios.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _captions(part: Rows) -> pd.DataFrame:
    groups = part.examples["group"]
    counts = chair_ratios(part["words"], part["absent"], part["found"], part["things"])
    measures = counts | {"object set": (part["set"], np.ones(len(groups)))}
    frames = [
        summarise(top, groups, {}, UNITS.get(name, "share"), denominators=bottom).assign(measure=name)
        for name, (top, bottom) in measures.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _samples(rows: Rows) -> pd.DataFrame:
    """Examples to look at, difficulties in turn, wrong answers where there are some: picture, question, answers."""
    examples = rows.examples.assign(right=rows["right|real"], row=np.arange(len(rows.examples)))
    first = examples[examples["condition"] == examples["condition"].iloc[0]]
    chosen = first.groupby("difficulty", sort=False).apply(_mixed, include_groups=False)
    picked = first.set_index("row").loc[chosen.explode().dropna().astype(int).tolist()]
    return pd.DataFrame(
        {
            "difficulty": picked["difficulty"].to_numpy(),
            "kind": picked["kind"].to_numpy(),
            "question": picked["question"].to_numpy(),
            "truth": picked["answer"].to_numpy(),
            "said": [
                bytes(rows["said"][i].astype(np.uint8)).rstrip(b"\0").decode("utf-8", "ignore") for i in picked.index
            ],
            "value": picked["right"].to_numpy(),
            "unit": "1 = right",
            "scene": picked["group"].to_numpy(),
            "picture": [picture(group) for group in picked["group"]],
        }
    )


def _mixed(frame: pd.DataFrame) -> list[int]:
    """Four examples of four scenes and kinds: a caption, a wrong answer if there is one, others."""
    order = pd.concat([frame[frame["kind"] == "caption"].head(1), frame[frame["right"] == 0], frame.iloc[::3]])
    order = order[~order["kind"].isin(POPE)].drop_duplicates("group").drop_duplicates("kind")
    return order["row"].head(4).tolist()


def picture(group: str) -> str:
    """The scene as a data address."""
    return f"data:image/png;base64,{png(render(scenes.scene_of(group)))}"
