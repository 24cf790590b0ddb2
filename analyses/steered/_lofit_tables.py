"""Tables of `lofit`: the answer under every edit, what beats what, strengths, heads, what sets share, neutral text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.circuit_overlap import heads_in_common
from ..common.controls import HEADS
from ..common.frames import by_head, joined, mean_of_present, summarise
from ..common.selection import measured_rows, strongest
from ..common.tested import nothing, number
from ._lofit_learned import CONTROLS, EDITS, MEANS, OURS, PLAIN, SCALED, SECOND

Array = NDArray[np.floating]
CHOSEN, SEEDS, NEUTRAL = "chosen heads beat random", "seeds choose alike", "neutral text stays"
MEASURES = {
    "log p of the answer": ("log p", "nats"),
    "the answer's lead": ("lead", "logits"),
    "accuracy among all words": ("top-1", "share"),
}
LENGTH, MOVED = "‖A‖", "‖A ⊙ z‖"
TWO_SEEDS, TWO_MEASURES = "two seeds of training", "‖A‖ and ‖A ⊙ z‖"
LOSS = "nats a token"


def _scored(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "lofit")


def _effects(rows: Rows, how: How) -> pd.DataFrame:
    """Each measure as the model is and under every edit; the control is the mean of its draws."""
    scored = _scored(rows, how)
    groups = scored.examples["group"]
    return joined(
        summarise(values, groups, {}, unit, control=control).assign(edit=edit, measure=measure)
        for measure, (name, unit) in MEASURES.items()
        for edit, control, values in _by_edit(scored, name)
    )


def _by_edit(rows: Rows, name: str) -> Iterator[tuple[str, str, Array]]:
    for edit in (PLAIN, *EDITS):
        yield edit, "", _as_learned(rows, name, edit)
    for control in CONTROLS:
        yield OURS, control, _as_learned(rows, name, control)


def _swept(rows: Rows, name: str, edit: str) -> Array:
    """[n, strength] of what is swept, the mean of its draws."""
    values = rows[f"{name}|{edit}"]
    return values.mean(2) if values.ndim == 3 else values


def _as_learned(rows: Rows, name: str, edit: str) -> Array:
    """[n], at the first strength."""
    values = _swept(rows, name, edit)
    return values[:, 0] if values.ndim == 2 else values


def _strengths(rows: Rows, how: How) -> pd.DataFrame:
    """What the chosen heads' offsets, and both controls, add to each measure: at every strength, and 0 at none."""
    scored = _scored(rows, how)
    groups, axes = scored.examples["group"], {"strength": [0.0, *how.options.strengths]}
    return joined(
        summarise(_added(scored, name, edit), groups, axes, unit, control=control, measure=measure)
        for measure, (name, unit) in MEASURES.items()
        for edit, control in ((OURS, ""), *((one, one) for one in CONTROLS))
    )


def _added(rows: Rows, name: str, edit: str) -> Array:
    added = _swept(rows, name, edit) - rows[f"{name}|{PLAIN}"][:, None]
    return np.concatenate([0 * added[:, :1], added], 1)


def _gain(rows: Rows, how: How) -> pd.DataFrame:
    """Differences example by example: the chosen heads minus everything else, every head scaled minus the model."""
    scored = _scored(rows, how)
    groups = scored.examples["group"]
    return joined(
        summarise(values, groups, {}, unit).assign(edit=edit, than=than, measure=measure)
        for measure, (name, unit) in MEASURES.items()
        for edit, than, values in _gains(scored, name)
    )


def _gains(rows: Rows, name: str) -> Iterator[tuple[str, str, Array]]:
    own, plain = _as_learned(rows, name, OURS), rows[f"{name}|{PLAIN}"]
    yield OURS, PLAIN, own - plain
    for than in (*CONTROLS, SECOND, MEANS):
        yield OURS, than, own - _as_learned(rows, name, than)
    yield SCALED, PLAIN, rows[f"{name}|{SCALED}"] - plain


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """‖A‖ of both seeds (one number each, without an interval) and ‖A ⊙ z‖ of the first, head by head."""
    learned, scored = how.learned, _scored(rows, how)
    parts = [_lengths(np.array(strengths, float), how).assign(seed=i + 1) for i, strengths in enumerate(_both(how))]
    parts.append(by_head(scored, scored["moved"], "mean norm", measure=MOVED).assign(seed=1))
    frame = joined(parts)
    sets = {name: {(int(layer), int(head)) for layer, head in heads} for name, heads, _ in learned.offsets}
    places = [*zip(frame["layer"].astype(int), frame["head"].astype(int), strict=True)]
    chosen = {name: [place in sets.get(of, ()) for place in places] for name, of in _COLUMNS.items()}
    return frame.assign(**chosen)


_COLUMNS = {"chosen": OURS, "chosen_by_second": SECOND}


def _both(how: How) -> Sequence[Array]:
    """‖A‖ [layer, head] of both seeds."""
    return [np.array(one, float) for one in how.learned.strengths]


def _lengths(strengths: Array, how: How) -> pd.DataFrame:
    layers, heads = np.nonzero(~np.isnan(strengths))
    frame = pd.DataFrame({"layer": layers, "head": heads, "value": strengths[layers, heads]})
    return frame.assign(lower=np.nan, upper=np.nan, unit="norm", measure=LENGTH, control="", **_counts(how))


def _counts(how: How) -> dict[str, int]:
    """What was learned from."""
    return {"n": how.learned.examples, "n_groups": len(how.learned.selected_on)}


def _overlap(rows: Rows, how: How) -> pd.DataFrame:
    """Heads that two sets have in common, with the exact band of sets with as many heads in every layer."""
    first, second = _both(how)
    moved = mean_of_present(_scored(rows, how)["moved"], 0)
    pairs = {TWO_SEEDS: second, TWO_MEASURES: moved}
    count = next(len(heads) for name, heads, _ in how.learned.offsets if name == OURS)
    ours = strongest(torch.tensor(first), count)
    common = {
        name: heads_in_common(ours, strongest(torch.tensor(other), count), first.shape) for name, other in pairs.items()
    }
    return pd.DataFrame([{"pair": name} | row | _counts(how) for name, row in common.items()])


def _neutral(rows: Rows, how: How) -> pd.DataFrame | None:
    """Loss of neutral text under each edit minus that of the model as it is; groups are documents."""
    losses, documents = how.learned.losses, how.learned.documents
    if not losses:
        return None
    shown = [(edit, "", edit) for edit in EDITS if edit in losses]
    shown += [(OURS, control, control) for control in CONTROLS if control in losses]
    plain = np.array(losses[PLAIN])
    return joined(
        summarise(np.array(losses[name]) - plain, documents, {}, LOSS, control=control).assign(edit=edit)
        for edit, control, name in shown
    )


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    scored = _scored(rows, how)
    groups, own = scored.examples["group"], _as_learned(scored, "log p", OURS)
    parts = [
        number(CHOSEN, own - scored[f"log p|{PLAIN}"], groups, "nats"),
        number(CHOSEN, own - _as_learned(scored, "log p", HEADS), groups, "nats", than=HEADS),
        *_of_neutral_text(how),
    ]
    return pd.concat(parts, ignore_index=True)


def _of_neutral_text(how: How) -> list[pd.DataFrame]:
    losses, documents = how.learned.losses, np.array(how.learned.documents)
    if not losses:
        return [nothing(NEUTRAL, "no neutral text was read (--lofit.neutral)")]
    plain, own = (np.array(losses[name]) for name in (PLAIN, OURS))
    random = np.array(losses.get(HEADS, np.full(len(plain), np.nan)))
    return [number(NEUTRAL, own - plain, documents, LOSS), number(NEUTRAL, own - random, documents, LOSS, than=HEADS)]


TABLES = {
    "effects": (_effects, ("edit", "measure")),
    "gain": (_gain, ("edit", "than", "measure")),
    "strengths": (_strengths, ("strength", "measure")),
    "heads": (_heads, ("measure", "seed", "chosen", "chosen_by_second")),
    "overlap": (_overlap, ("pair", "heads", "common", "expected", "p_value", "p_least")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
RUN_TABLES = {"neutral": (_neutral, ("edit",))}
