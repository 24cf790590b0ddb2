"""The tables of the subject card."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...data.subjects import scenes_model
from ...data.tasks import scenes
from ...data.world.questions import POPE
from ...data.world.render import render
from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.frames import summarise
from ..common.hallucination import UNITS, chair_ratios, pope_ratios
from ..common.thumbnails import png
from ._claims import bars
from ._text_ability import text_table

CONTROLS = {"real": "", "swapped": "swapped image", "blank": "blank image"}
CONSTANT = "best constant answer"


def accuracy(rows: Rows, how: How) -> pd.DataFrame:
    """Right answers by difficulty and kind, with the controls."""
    constant = _constant(rows.examples)
    return _over_cells(rows, lambda part, chosen, kind: _accuracy(part, constant[chosen]).assign(kind=kind))


def pope(rows: Rows, how: How) -> pd.DataFrame | None:
    """POPE's measures by difficulty and set."""
    parts = _of_kinds(rows, POPE)
    return _over_cells(parts, lambda part, _, kind: _pope(part).assign(set=kind.removeprefix("pope_")))


def captions(rows: Rows, how: How) -> pd.DataFrame | None:
    """CHAIR's measures by difficulty."""
    return _over_cells(_of_kinds(rows, ("caption",)), lambda part, _, kind: _captions(part))


def bars_of(rows: Rows, how: How) -> pd.DataFrame:
    """What the claims are about."""
    tables = {"accuracy": accuracy(rows, how), "captions": captions(rows, how), "text": text(rows, how)}
    return bars(rows, {name: table for name, table in tables.items() if table is not None}, _constant(rows.examples))


def text(rows: Rows, how: How) -> pd.DataFrame | None:
    """SmolLM2's own abilities before and after; where there is a before."""
    return text_table(how.learned.text) if how.learned.text else None


def training(rows: Rows, how: How) -> pd.DataFrame | None:
    """The log beside the checkpoint; of the subject that has one."""
    return training_table(scenes_model.training_log()) if how.learned.text else None


def _of_kinds(rows: Rows, kinds: Collection[str]) -> Rows:
    return rows.where(rows.examples["kind"].isin(kinds).to_numpy())


def _over_cells(rows: Rows, make: Callable[[Rows, np.ndarray, str], pd.DataFrame]) -> Any:
    """`make` of every difficulty's and kind's rows, one below the other; None where there are no rows."""
    frames, cells = [], rows.examples.groupby(["difficulty", "kind"], sort=False).indices
    for (difficulty, kind), at in cells.items():  # pyright: ignore[reportGeneralTypeIssues]
        chosen = np.zeros(len(rows.examples), bool)
        chosen[at] = True
        frames.append(make(rows.where(chosen), chosen, kind).assign(difficulty=difficulty))
    return pd.concat(frames, ignore_index=True) if frames else None


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


def samples(rows: Rows, how: How) -> pd.DataFrame:
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
