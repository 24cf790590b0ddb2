"""Tables of `directions`: what each edit does to the answer, what it costs neutral text, and the numbers of claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from ..common.controls import PERMUTED_LABELS, SUBSPACE
from ..common.frames import joined, summarise
from ..common.selection import measured_rows
from ..common.stats import MIN_GROUPS, chosen_on
from ..common.tested import nothing, number
from ._directed import READ
from ._learned_directions import extremes

CONTROLS = (PERMUTED_LABELS, SUBSPACE)
ADDED, OUT = "added", "projected out"
STEERS, NEEDED = "adding the direction", "projecting it out"
MEASURES = {
    READ[0]: ("the answer over the other options", "logits"),
    READ[1]: ("the right answer over the other", "logits"),
    READ[2]: ("accuracy among the options", "share"),
}


def _scored(rows: Rows, how: How) -> Rows:
    """The examples that offer the answer, of groups that no direction comes from. NothingToMeasure: there are none."""
    kept = measured_rows(rows, how.learned.selected_on, "directions")
    kept = kept.where(~np.isnan(kept[f"clean|{READ[0]}"]))
    if not len(kept.examples):
        raise NothingToMeasure(f"directions: no example offers {how.learned.positive!r} as an option")
    return kept


def _change(rows: Rows, name: str) -> np.ndarray:
    """Edited minus not, [n, kind, layer, strength or out]."""
    return rows[f"edited|{name}"] - rows[f"clean|{name}"][:, None, None, None]


def _kinds(options: Any) -> dict[str, slice]:
    """Where the measured direction lies among the kinds, and each control's draws."""
    ends = (0, 1, 1 + options.draws, 1 + 2 * options.draws)
    return {name: slice(*ends[i : i + 2]) for i, name in enumerate(("", *CONTROLS))}


def _edits(strengths: Sequence[float]) -> list[tuple[str, float]]:
    return [*((ADDED, strength) for strength in strengths), (OUT, np.nan)]


def _sweep(rows: Rows, how: How) -> pd.DataFrame:
    """Every measure with each edit in each layer, minus without it; controls are means of their draws."""
    rows = _scored(rows, how)
    return joined(
        _by_edit(
            _change(rows, name)[:, kind].mean(1), rows.examples["group"], how.options.strengths, unit, control
        ).assign(measure=said, answer=how.learned.positive)
        for name, (said, unit) in MEASURES.items()
        for control, kind in _kinds(how.options).items()
    )


def _by_edit(values: np.ndarray, groups: Any, strengths: Sequence[float], unit: str, control: str) -> pd.DataFrame:
    """values: [n, layer, strength or out]."""
    axes = {"layer": np.arange(values.shape[1])}
    parts = [
        summarise(values[..., i], groups, axes, unit, control=control).assign(edit=edit, strength=strength)
        for i, (edit, strength) in enumerate(_edits(strengths))
    ]
    return pd.concat(parts, ignore_index=True)


def _quality(rows: Rows, how: How) -> pd.DataFrame | None:
    """Loss of neutral text with each edit minus without it; groups are texts."""
    if not how.learned.quality:
        return None
    values = np.array(how.learned.quality)
    texts, strengths = np.arange(len(values)), extremes(how.options.strengths)
    return joined(
        _by_edit(values[:, i], texts, strengths, "nats a token", control) for i, control in enumerate(("", SUBSPACE))
    ).assign(answer=how.learned.positive)


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    rows, options = _scored(rows, how), how.options
    strongest = int(np.argmax(options.strengths))
    values = {STEERS: _change(rows, READ[0])[..., strongest], NEEDED: -_change(rows, READ[1])[..., -1]}
    parts = [part for name, own in values.items() for part in _numbers(name, own, rows, options)]
    return pd.concat(parts, ignore_index=True).assign(answer=how.learned.positive)


def _numbers(claim: str, values: np.ndarray, rows: Rows, options: Any) -> Iterator[pd.DataFrame]:
    """values [n, kind, layer]: each kind at the layer that was best on one half of the groups, read on the other."""
    groups = rows.examples["group"].to_numpy()
    if len({*groups}) < 2 * MIN_GROUPS:
        yield nothing(claim, f"fewer than {2 * MIN_GROUPS} groups offer the answer").assign(best=np.nan)
        return
    best, other = chosen_on(values, groups, lambda half: half.mean(0).argmax(1))
    read = np.take_along_axis(values[other], best[None, :, None], 2)[..., 0]
    for control, kind in _kinds(options).items():
        ahead = read[:, 0] if not control else read[:, 0] - read[:, kind].mean(1)
        yield number(claim, ahead, groups[other], "logits", than=control).assign(best=float(best[0]))


TABLES = {
    "sweep": (_sweep, ("edit", "strength", "measure", "answer")),
    "quality": (_quality, ("edit", "strength", "answer")),
    "tested": (_tested, ("claim", "than", "untestable", "best", "answer")),
}
