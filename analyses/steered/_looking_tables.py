"""Tables of `looking`: what each edit changes, before and after, draw by draw, text behind a picture, claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.controls import HEADS, PERMUTED
from ..common.frames import joined, summarise
from ..common.selection import measured_rows
from ..common.tested import nothing, number
from ._looked import BLANK, CHOSEN, DRAWN, EDITS, EVERY, GAZE, NO, OTHER, OTHER_MAP, YES, strengths_of
from ._looking_fit import PLAIN

Array = NDArray[np.floating]
HEADS_HELP, ALL, LESS = "chosen heads help", "every head helps", "looking less hurts"
GAZED, ABSENT, TEXT = "the gaze shift helps", "absent things stay absent", "other text stays"
AS_IT_IS = "as it is"
MEASURES = {
    "the answer's lead": ("lead", "logits"),
    "accuracy": ("right", "share"),
    "share of “yes”": ("yes", "share"),
}
LOSS = "nats a token"


def _scored(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "looking")


def _questions(rows: Rows) -> dict[str, Rows]:
    """All questions, and apart those where yes is right, where no is, and the others; kinds that are not there, or
    alone there, are left out.
    """
    kinds = {"yes is right": YES, "no is right": NO, "other questions": OTHER}
    apart = {name: rows.where(rows["asked"] == kind) for name, kind in kinds.items()}
    there = {name: some for name, some in apart.items() if len(some.examples)}
    return {"all questions": rows} | (there if len(there) > 1 else {})


def _values(rows: Rows, name: str, like: str) -> Array:
    """Rows of that name; NaN where there are none, as without draws."""
    return rows.values.get(name, np.full((len(rows[like]), 1), np.nan))


def change(rows: Rows, read: str, edit: str, control: str = "") -> Array:
    """Edited minus not, [n, strength or draw]; with a blank picture both are with it."""
    clean = f"{read}|clean|{BLANK}" if control == BLANK else f"{read}|clean"
    name = "|".join(part for part in (read, edit, control) if part)
    return _values(rows, name, f"{read}|clean") - _values(rows, clean, f"{read}|clean").reshape(-1, 1)


def _at(edit: str, how: How) -> int:
    """The place of the strength at which claims are read."""
    strengths = np.array(strengths_of(edit, how.options))
    return int(np.abs(strengths - how.learned.strengths[edit]).argmin())


def _controls(edit: str) -> list[str]:
    """Those of the learned strength alone."""
    return [name for name in (DRAWN.get(edit), OTHER_MAP if edit == GAZE else None) if name]


def _effects(rows: Rows, how: How) -> pd.DataFrame:
    """What each edit changes at each strength; a blank picture's beside it, and the other controls' at one strength."""
    scored = _scored(rows, how)
    return joined(
        part.assign(measure=said, questions=asked)
        for asked, some in _questions(scored).items()
        for said, (read, unit) in MEASURES.items()
        for edit in EDITS
        for part in _changes(some, read, unit, edit, how)
    )


def _changes(rows: Rows, read: str, unit: str, edit: str, how: How) -> Iterator[pd.DataFrame]:
    groups, axes = rows.examples["group"], {"strength": strengths_of(edit, how.options)}
    own, blank = change(rows, read, edit), change(rows, read, edit, BLANK)
    yield summarise(own, groups, axes, unit, control="", edit=edit)
    if blank.shape == own.shape:
        yield summarise(blank, groups, axes, unit, control=BLANK, edit=edit)
    for control in _controls(edit):
        mean = change(rows, read, edit, control).mean(1)
        yield summarise(mean, groups, {}, unit, control=control, edit=edit).assign(strength=how.learned.strengths[edit])


def _levels(rows: Rows, how: How) -> pd.DataFrame:
    """Before and after, in raw units: the model as it is (strength 1), and each edit at each strength."""
    scored, parts = _scored(rows, how), []
    groups = scored.examples["group"]
    for said, (read, unit) in MEASURES.items():
        plain = summarise(scored[f"{read}|clean"], groups, {}, unit, control="").assign(edit=AS_IT_IS, strength=1.0)
        parts.append(plain.assign(measure=said))
        for edit in EDITS:
            axes = {"strength": strengths_of(edit, how.options)}
            values = summarise(scored[f"{read}|{edit}"], groups, axes, unit, control="", edit=edit)
            parts.append(values.assign(measure=said))
    guess = summarise(scored["guessing"], groups, {}, "share", control="guessing", edit=AS_IT_IS, strength=1.0)
    return joined([*parts, guess.assign(measure="accuracy")])


def _draws(rows: Rows, how: How) -> pd.DataFrame:
    """The change of the lead with each draw of a control, at the strength at which claims are read; draw −1: the edit
    itself. beaten: whether the edit's mean lies above the draw's.
    """
    scored, parts = _scored(rows, how), []
    groups = scored.examples["group"]
    for edit, control in DRAWN.items():
        own, drawn = change(scored, "lead", edit)[:, _at(edit, how)], change(scored, "lead", edit, control)
        parts.append(summarise(own, groups, {}, "logits", control="", edit=edit, draw=-1, beaten=np.nan))
        several = summarise(drawn, groups, {"draw": range(drawn.shape[1])}, "logits", control=control, edit=edit)
        parts.append(several.assign(beaten=(several["value"] < parts[-1]["value"].iloc[0]).astype(float)))
    return joined(parts)


def _neutral(rows: Rows, how: How) -> pd.DataFrame | None:
    """Loss of text behind a picture minus that of the model as it is, passage by passage."""
    losses, documents = how.learned.losses, how.learned.documents
    if not losses:
        return None
    plain = np.array(losses[PLAIN])
    return joined(
        summarise(np.array(losses[name]) - plain, documents, {}, LOSS, control=control, edit=edit).assign(
            strength=how.learned.strengths[edit]
        )
        for name, edit, control in ((CHOSEN, CHOSEN, ""), (EVERY, EVERY, ""), (HEADS, CHOSEN, HEADS))
    )


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    scored = _scored(rows, how)
    absent = scored.where(scored["asked"] == NO)
    least = int(np.argmin(how.options.factors))
    smaller = min(how.options.factors) < 1
    parts = [
        *_numbers(HEADS_HELP, scored, CHOSEN, _at(CHOSEN, how), (HEADS, BLANK)),
        *_numbers(ALL, scored, EVERY, _at(EVERY, how), (BLANK,)),
        *(_numbers(LESS, scored, EVERY, least, (BLANK,)) if smaller else [nothing(LESS, "no factor is below 1")]),
        *_numbers(GAZED, scored, GAZE, _at(GAZE, how), (PERMUTED, OTHER_MAP)),
        *_of_absent(absent, how),
        *_of_text(how),
    ]
    return pd.concat(parts, ignore_index=True)


def _numbers(claim: str, rows: Rows, edit: str, at: int, controls: Any) -> Iterator[pd.DataFrame]:
    groups, own = rows.examples["group"], change(rows, "lead", edit)[:, at]
    yield number(claim, own, groups, "logits")
    for control in controls:
        drawn = change(rows, "lead", edit, control)
        beside = drawn[:, at] if control == BLANK and drawn.shape[1] > at else drawn.mean(1)
        yield number(claim, own - beside, groups, "logits", than=control)


def _of_absent(rows: Rows, how: How) -> list[pd.DataFrame]:
    if not len(rows.examples):
        return [nothing(ABSENT, "no question's right answer is no, with yes as the other option")]
    return [*_numbers(ABSENT, rows, GAZE, _at(GAZE, how), (PERMUTED, BLANK))]


def _of_text(how: How) -> list[pd.DataFrame]:
    losses, documents = how.learned.losses, np.array(how.learned.documents)
    if not losses:
        return [nothing(TEXT, "no text was read behind a picture (--looking.texts)")]
    plain, own, every = (np.array(losses[name]) for name in (PLAIN, CHOSEN, EVERY))
    return [number(TEXT, own - plain, documents, LOSS), number(TEXT, own - every, documents, LOSS, than=EVERY)]


TABLES = {
    "effects": (_effects, ("edit", "strength", "measure", "questions")),
    "levels": (_levels, ("edit", "strength", "measure")),
    "draws": (_draws, ("edit", "draw", "beaten")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
RUN_TABLES = {"neutral": (_neutral, ("edit", "strength"))}
