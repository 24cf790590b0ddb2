"""Tables of `circuits`: effects of every head, the circuit of each stage, and the numbers that the claims are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.agreement import agreement_table, five_over_one
from ..common.contrast import apart, task_table, unsolved
from ..common.controls import HEADS, Head
from ..common.frames import head_axes, summarise
from ..common.selection import at, at_random, halves, measured
from ..common.tested import nothing, number, share_above
from ._held import held_by, needed
from ._looked_tables import looked

EXACT, DIRECT, MOVERS = "patched at the last position", "path to the output", "path to the movers' queries"


VALUES, KEYS_VALUES = "path to the inhibition heads' values", "path to the induction heads' keys and values"


STAGES = (EXACT, DIRECT, MOVERS, VALUES, KEYS_VALUES)


LEARNED = STAGES[2:]  # their receivers were chosen on some groups


LOGITS, ATTENTION = "direct logit attribution", "attention on "
ALIKE = "alike|"  # rows of what uniform attention gives a mark


UNNAMED = "not testable"  # a head that attends to the answer, of which nobody knows what it writes


SPARSE, NINE_TENTHS = 0.02, 0.05  # the shares of heads that claims are about
SPARSE_BAR = 1 / 3  # of the effect, that so few heads hold


# The marks of the tasks that hold the answer's token, and those of the option that is wrong (where the answer is marked
# as well: the subject of a fact is no option).
ANSWER = ("indirect_object", "asked_color", "answer")


WRONG = ("second_subject", "subject", "other_colors")


def _names(rows: Rows, part: str) -> list[str]:
    return [name.removeprefix(f"{part}|") for name in rows.values if name.startswith(f"{part}|")]


def _of(rows: Rows, measure: str, how: How) -> Rows:
    """The rows that a measure of heads is over: what receivers hear is not measured where they were chosen."""
    return rows.where(measured(rows.examples["group"], how.learned.selected_on)) if measure in LEARNED else rows


def _all_effects(rows: Rows, how: How) -> pd.DataFrame:
    """One row per head or MLP and measure."""
    frames = []
    for part in ("head", "mlp"):
        for name in _names(rows, part):
            mine = _of(rows, name, how)
            if len(mine.examples):
                frames.append(_effect(mine, part, name))
    return pd.concat(frames, ignore_index=True)


def _effect(rows: Rows, part: str, name: str) -> pd.DataFrame:
    values, groups = rows[f"{part}|{name}"], rows.examples["group"]
    unit = "attention" if name.startswith(ATTENTION) else "logits"
    frame = summarise(values, groups, head_axes(values), unit, part=part, measure=name)
    if unit == "attention" or name == LOGITS:
        return frame.assign(p_value=np.nan, normalized=np.nan)
    divisible = apart(rows["donor"] - rows["clean"], groups)
    normalized = _normalized(rows, values) if divisible else np.nan
    return frame.assign(p_value=stats.family_p(values, groups).ravel(), normalized=normalized)


def _normalized(rows: Rows, values: np.ndarray) -> np.ndarray:
    clean, donor = (torch.from_numpy(rows[name]) for name in ("clean", "donor"))
    return metrics.normalized_effect(torch.from_numpy(values).movedim(0, -1) + clean, clean, donor).numpy().ravel()


def _circuit(rows: Rows, how: How) -> pd.DataFrame | None:
    """The heads of every stage, chosen on one half, with all that the other half knows of them; see `named`."""
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    if not chosen.any():
        return None
    frames = []
    for stage in (stage for stage in STAGES if f"head|{stage}" in rows.values):
        chosen_on = rows[f"head|{stage}"][chosen].mean(0)
        for rank, head in enumerate(metrics.top_heads(torch.tensor(chosen_on), how.options.share), 1):
            frame = _known(rows.where(other), head)
            name = named(dict(zip(frame["measure"], frame["value"], strict=True)), how.options)
            names = {"stage": stage, "rank": rank, "layer": head[0], "head": head[1], "name": name}
            frames.append(frame.assign(**names, chosen_on=chosen_on[head]))
    return pd.concat(frames, ignore_index=True)


def _known(rows: Rows, head: Head) -> pd.DataFrame:
    """One head's effects, direct attribution and attention, a row each."""
    measures = _names(rows, "head")
    values = np.stack([rows[f"head|{name}"][(slice(None), *head)] for name in measures], 1)
    units = ["attention" if name.startswith(ATTENTION) else "logits" for name in measures]
    return summarise(values, rows.examples["group"], {"measure": measures}, "").assign(unit=units)


def named(head: Mapping[Any, float], options: Any) -> str:
    """A head's name by its numbers: "mover", "negative mover", "inhibition", or "" where no threshold is met.

    Mover: attention on the answer's token from `mover_attention`, and it writes towards the answer (negative mover:
    against it); "not testable" where its direct logit attribution is missing. Inhibition: attention on the wrong
    option's token from `inhibition_attention`, without being a mover. A task that does not mark the answer's token
    names no head.
    """
    on_answer, on_wrong = (_most(head, marks) for marks in (ANSWER, WRONG))
    if on_answer is None:
        return ""
    if on_answer >= options.mover_attention and (on_wrong is None or on_answer >= on_wrong):
        written = head.get(LOGITS, np.nan)
        return UNNAMED if np.isnan(written) else "mover" if written > 0 else "negative mover"
    return "inhibition" if on_wrong is not None and on_wrong >= options.inhibition_attention else ""


def _most(head: Mapping[Any, float], marks: Sequence[str]) -> float | None:
    """The largest attention on the marks that there are; None where there is none."""
    known = [head[ATTENTION + mark] for mark in marks if not np.isnan(head.get(ATTENTION + mark, np.nan))]
    return max(known, default=None)


def _agreement(rows: Rows, how: How) -> pd.DataFrame | None:
    return agreement_table(rows, EXACT)


def _stability(rows: Rows, how: How) -> pd.DataFrame | None:
    """Mean effects of every head on two halves of the groups: what noise leaves of an overlap."""
    frames = []
    for stage in (s for s in STAGES if f"head|{s}" in rows.values):
        mine = _of(rows, stage, how)
        values, groups = mine[f"head|{stage}"], mine.examples["group"]
        if groups.nunique() < 2:
            continue
        reliability = stats.split_half_correlation(values, groups)
        for index, half in enumerate(stats.split_half(groups), 1):
            mean = values[half].mean(0)
            layer, head = np.indices(mean.shape)
            cells = {"layer": layer.ravel(), "head": head.ravel(), "value": mean.ravel(), "n": int(half.sum())}
            frame = pd.DataFrame({**cells, "n_groups": groups[half].nunique(), "unit": "logits", "half": index})
            frames.append(frame.assign(measure=stage, reliability=reliability))
    return pd.concat(frames, ignore_index=True) if frames else None


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups, reason = rows.examples["group"], unsolved(rows)
    frames = [
        share_above("solved", rows["right"], rows["guessing"], groups),
        number("twins differ", rows["clean"] - rows["donor"], groups, "logits"),
        *held_by("sparse", SPARSE, rows, how, f"head|{EXACT}", reason),
        *held_by("nine tenths", NINE_TENTHS, rows, how, f"head|{EXACT}", reason),
        *_movers(rows, how, reason),
    ]
    if (gain := five_over_one(rows, EXACT)) is not None:
        frames.append(pd.DataFrame([gain | {"claim": "gradients", "than": "", "untestable": reason}]))
    else:
        frames.append(nothing("gradients", "no gradients were asked for"))
    return pd.concat(frames, ignore_index=True)


def _needed(rows: Rows, how: How) -> pd.DataFrame | None:
    """What the strongest heads hold, by how many they are."""
    return needed(rows, how, f"head|{EXACT}")


def _looked(rows: Rows, how: How) -> pd.DataFrame | None:
    """What the heads patched at the last position look at."""
    return looked(rows, how, f"head|{EXACT}", f"head|{ATTENTION}", ALIKE)


def _movers(rows: Rows, how: How, reason: str) -> list[pd.DataFrame]:
    """Attention on the answer's token of the heads that help, and the same minus that of random heads."""
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    looked = next((name for mark in ANSWER if (name := f"head|{ATTENTION}{mark}") in rows.values), None)
    if looked is None or not chosen.any():
        return [nothing("movers", reason or "the task does not mark the answer's token, or has one group")]
    mean = rows[f"head|{DIRECT}"][chosen].mean(0)
    helping = [head for head in metrics.top_heads(torch.tensor(mean), how.options.share) if mean[head] < 0]
    if not helping:
        return [nothing("movers", reason or "no head of the circuit helps")]
    attention, groups = rows[looked][other], rows.examples["group"][other]
    own, drawn = at(attention, helping).mean(1), at_random(attention, helping).mean(1)
    margin = number("movers", own - drawn, groups, "attention", than=HEADS, untestable=reason)
    return [number("movers", own, groups, "attention", untestable=reason), margin]


TABLES = {
    "task": (task_table, ("measure",)),
    "effects": (_all_effects, ("part", "measure", "p_value", "normalized")),
    "circuit": (_circuit, ("measure", "stage", "rank", "name", "chosen_on")),
    "needed": (_needed, ("share", "heads")),
    "looked": (_looked, ("measure",)),
    "agreement": (_agreement, ("part", "estimate", "measure")),
    "stability": (_stability, ("half", "measure", "reliability")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
