"""Tables of `highlighting`: the task with a span highlighted, beside its controls; heads alone; neutral text."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.controls import HEADS, SPAN
from ..common.frames import head_axes, joined, summarise
from ..common.selection import measured_rows
from ..common.tested import nothing, number
from ._neutral import ALL, OURS, PLAIN

Array = NDArray[np.floating]
CHOSEN, EVERY, NEUTRAL = "chosen heads help", "every head hurts", "neutral text stays"
NONE = "nothing highlighted"
MEASURES = {"accuracy": ("right", "share"), "the answer's lead": ("lead", "logits")}
WHERE = {"chosen": OURS, "every": ALL}
LOSS = "nats a token"


def _scored(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "highlighting")


def _effects(rows: Rows, how: How) -> pd.DataFrame:
    """Each edit and control at each alpha; alpha 1 is the model as it is."""
    scored = _scored(rows, how)
    return joined([_effect(scored, *of, how).assign(measure=name) for name, of in MEASURES.items()])


def _effect(rows: Rows, name: str, unit: str, how: How) -> pd.DataFrame:
    groups, axes, draws = rows.examples["group"], {"alpha": how.options.alphas}, how.options.draws
    plain = summarise(rows[f"{name}|clean"], groups, {}, unit, control="").assign(alpha=1.0, steered=NONE, draws=1)
    parts = [plain]
    if name == "right":
        parts.append(
            summarise(rows["guessing"], groups, {}, unit, control="guessing", steered=NONE, alpha=1.0, draws=1)
        )
    for edit, where in WHERE.items():
        parts.append(summarise(rows[f"{name}|{edit}"], groups, axes, unit, control="", steered=where, draws=1))
    for control in (HEADS, SPAN):
        mean = rows[f"{name}|{control}"].mean(2)
        parts.append(summarise(mean, groups, axes, unit, control=control, steered=OURS, draws=draws))
    return pd.concat(parts, ignore_index=True)


def _gain(rows: Rows, how: How) -> pd.DataFrame:
    """At the smallest alpha the chosen heads, and every head, minus what they are compared with, example by example.

    beats: the share of draws below.
    """
    scored = _scored(rows, how)
    return joined([_gained(scored, *of, how).assign(measure=name) for name, of in MEASURES.items()])


def _gained(rows: Rows, name: str, unit: str, how: How) -> pd.DataFrame:
    groups, parts = rows.examples["group"], []
    own, every = (at_least(rows, f"{name}|{edit}", how) for edit in WHERE)
    others = {
        NONE: rows[f"{name}|clean"],
        **{control: at_least(rows, f"{name}|{control}", how) for control in (HEADS, SPAN)},
    }
    for than, other in others.items():
        mean, draws = (other.mean(1), other) if other.ndim == 2 else (other, None)
        parts.append(summarise(own - mean, groups, {}, unit).assign(steered=OURS, than=than, beats=_beats(own, draws)))
    parts.append(summarise(every - others[NONE], groups, {}, unit).assign(steered=ALL, than=NONE, beats=np.nan))
    parts.append(summarise(every - own, groups, {}, unit).assign(steered=ALL, than=OURS, beats=np.nan))
    return pd.concat(parts, ignore_index=True)


def at_least(rows: Rows, name: str, how: How) -> Array:
    """[n], of a control [n, draw], at the smallest alpha."""
    return rows[name][:, int(np.argmin(how.options.alphas))]


def _beats(own: Array, draws: Array | None) -> float:
    """The share of draws [n, draw] whose mean lies below; NaN where there are none."""
    if draws is None or np.isnan(draws).any():
        return np.nan
    return float((own.mean() > draws.mean(0)).mean())


def _heads(rows: Rows, how: How) -> pd.DataFrame | None:
    """What each head alone adds to the lead, on the examples that heads were chosen on; chosen: among them."""
    if not how.learned.profile:
        return None
    groups = [group for group, _ in how.learned.profile]
    shape = (len(groups), -1, how.learned.n_heads)
    values = np.array([gains for _, gains in how.learned.profile], float).reshape(shape)
    frame = summarise(values, groups, head_axes(values), "logits")
    chosen = {(layer, head) for layer, head in how.learned.heads}
    places = zip(frame["layer"], frame["head"], strict=True)
    return joined([frame.assign(chosen=[(int(layer), int(head)) in chosen for layer, head in places])])


def _neutral(rows: Rows, how: How) -> pd.DataFrame | None:
    """Loss of neutral text minus that of the model as it is, passage by passage."""
    losses, documents = how.learned.losses, how.learned.documents
    if not losses:
        return None
    plain = np.array(losses[PLAIN])
    return joined(
        summarise(np.array(losses[name]) - plain, documents, {}, LOSS, control=control, steered=steered)
        for name, steered, control in ((OURS, OURS, ""), (ALL, ALL, ""), (HEADS, OURS, HEADS))
    )


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    """At the smallest alpha."""
    return pd.concat([*_of_the_task(_scored(rows, how), how), *_of_neutral_text(how)], ignore_index=True)


def _of_the_task(rows: Rows, how: How) -> list[pd.DataFrame]:
    groups, unit, clean = rows.examples["group"], "logits", rows["lead|clean"]
    own, every = (at_least(rows, f"lead|{edit}", how) for edit in WHERE)
    controls = {name: own - at_least(rows, f"lead|{name}", how).mean(1) for name in (HEADS, SPAN)}
    return [
        number(CHOSEN, own - clean, groups, unit),
        *(number(CHOSEN, gap, groups, unit, than=name) for name, gap in controls.items()),
        number(EVERY, every - clean, groups, unit),
        number(EVERY, every - own, groups, unit, than=OURS),
    ]


def _of_neutral_text(how: How) -> list[pd.DataFrame]:
    losses, documents = how.learned.losses, np.array(how.learned.documents)
    if not losses:
        return [nothing(NEUTRAL, "no neutral text was read (--highlighting.neutral)")]
    plain, own, every = (np.array(losses[name]) for name in (PLAIN, OURS, ALL))
    return [number(NEUTRAL, own - plain, documents, LOSS), number(NEUTRAL, own - every, documents, LOSS, than=ALL)]


TABLES = {
    "effects": (_effects, ("steered", "alpha", "draws", "measure")),
    "gain": (_gain, ("steered", "than", "beats", "measure")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
RUN_TABLES = {"heads": (_heads, ("chosen",)), "neutral": (_neutral, ("steered",))}
