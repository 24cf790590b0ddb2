"""Tables of `information_flow`: changes by flow and layer, their thirds, and causal tracing by place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.frames import summarise
from ._flow_rows import BUCKETS, NORMS, READ

STAGES = ("early third", "middle third", "late third")


RATIO_LAST = "change of the sum"  # Σ change / Σ clean: examples with a large probability weigh more


HALVES = ("first half", "second half")


Make = Callable[[Rows, Any], pd.DataFrame | None]


def _of_right(make: Make, rows: Rows, how: How, *, subsets: bool) -> pd.DataFrame | None:
    """`make` of the rows that are answered correctly, of the whole task or of each subset too; None without any."""
    parts = rows.subsets(how.options.subset) if subsets else [("all", rows)]
    right = [(subset, part.where(part["correct"] == 1)) for subset, part in parts]
    frames = [(subset, make(part, how.options)) for subset, part in right if len(part.examples)]
    frames = [frame.assign(subset=subset) for subset, frame in frames if frame is not None]
    return pd.concat(frames, ignore_index=True) if frames else None


def _flows(rows: Rows, how: How) -> pd.DataFrame:
    """flow measure ("change", "delta log p", `RATIO_LAST`) subset width."""
    table = _of_right(_changes, rows, how, subsets=True)
    if table is None:
        raise NothingToMeasure(f"0 of {len(rows.examples)} prompts are answered correctly")
    return table


def _valid(rows: Rows, how: How) -> pd.DataFrame | None:
    """What the cut leaves: measure ("valid mass", "valid accuracy")."""
    return _of_right(_left, rows, how, subsets=True)


def _stages(rows: Rows, how: How) -> pd.DataFrame | None:
    """Means over thirds of the layers, and their differences."""
    return _of_right(_by_thirds, rows, how, subsets=False)


def _answer(rows: Rows, how: How) -> pd.DataFrame | None:
    """The answer's probability by state and norm."""
    return _of_right(_by_norm, rows, how, subsets=False)


def _trace(rows: Rows, how: How) -> pd.DataFrame | None:
    """Causal tracing: state place measure ("restored", "normalised")."""
    return _of_right(_traced, rows, how, subsets=False)


def _sites(rows: Rows, how: How) -> pd.DataFrame | None:
    """One place minus the other by halves of the states."""
    return _of_right(_compared, rows, how, subsets=False)


def _accuracy(rows: Rows, how: How) -> pd.DataFrame:
    parts = rows.subsets(how.options.subset)
    return pd.concat([_solved(part).assign(subset=subset) for subset, part in parts], ignore_index=True)


def _each_flow(rows: Rows) -> list[tuple[str, str, np.ndarray]]:
    """(flow, control, [n, layers, 4]) of every flow that some of these examples have."""
    names = [name.split("|") for name in rows.values if name.startswith("flow|")]
    flows = [(flow, control, rows[f"flow|{flow}|{control}"]) for _, flow, control in names]
    return [(flow, control, values) for flow, control, values in flows if not np.isnan(values).all()]


def _percent(rows: Rows, values: np.ndarray) -> np.ndarray:
    """[n, layers, 4] -> [n, layers]: each example's change in per cent of its own probability."""
    after, before = (torch.from_numpy(np.asarray(x, float)) for x in (values[..., 0], rows["clean"][:, None, 0]))
    return metrics.percent_change(after, before).numpy()


def _changes(rows: Rows, options: Any) -> pd.DataFrame:
    frames, groups, clean = [], rows.examples["group"], rows["clean"]
    for flow, control, values in _each_flow(rows):
        layers = np.arange(values.shape[1])
        shown = ~np.isnan(values[..., 0]).all(0)
        axes, values = {"layer": layers[shown]}, values[:, shown]
        moved = values[..., 0] - clean[:, None, 0]
        made = {
            "change": summarise(_percent(rows, values), groups, axes, "%"),
            RATIO_LAST: summarise(100 * moved, groups, axes, "%", denominators=clean[:, 0]),
            "delta log p": summarise(values[..., 1] - clean[:, None, 1], groups, axes, "nats"),
        }
        frames += [f.assign(flow=flow, control=control, measure=measure) for measure, f in made.items()]
    table = pd.concat(frames, ignore_index=True)
    return table.assign(width=_width(rows, table["layer"].to_numpy(), options.window))


def _width(rows: Rows, layers: np.ndarray, window: int) -> np.ndarray:
    """In how many layers each window cuts: those inside of the model that have heads."""
    n = rows["answer|" + NORMS[0]].shape[1] - 1
    attends = rows["attends"][0] if "attends" in rows.values else np.ones(n)
    before = np.concatenate([[0], np.cumsum(attends)]).astype(int)
    return before[np.minimum(n, layers + (window + 1) // 2)] - before[np.maximum(0, layers - window // 2)]


def _thirds(values: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the windows of each third of the layers, [n] each; windows without a value are left out."""
    parts = zip(STAGES, np.array_split(values, 3, axis=1), strict=True)
    return {name: _mean_there(part) for name, part in parts}


def _by_thirds(rows: Rows, options: Any) -> pd.DataFrame:
    """Means by third, and the paired differences that the claims are about (stage "a − b", or "flow − flow").

    A flow and its control are compared over the windows at which the control was measured.
    """
    groups = rows.examples["group"]
    changes = {(flow, control): _percent(rows, values) for flow, control, values in _each_flow(rows)}
    frames = []
    for (flow, control), change in changes.items():
        stages = _thirds(change)
        early, middle, late = (stages[name] for name in STAGES)
        shown = stages | {
            "early − late": early - late,
            "middle − early": middle - early,
            "middle − late": middle - late,
            "all layers": (early + middle + late) / 3,
        }
        if control and (flow, "") in changes:
            own = _thirds(np.where(np.isnan(change), np.nan, changes[flow, ""]))
            shown |= {f"flow − control, {name}": own[name] - stages[name] for name in STAGES}
        for stage, values in shown.items():
            if not np.isnan(values).all():
                frames.append(summarise(values, groups, {}, "%").assign(flow=flow, control=control, stage=stage))
    question, image = (changes.get((f"{source} → last", "")) for source in ("question", "image"))
    if question is not None and image is not None:
        gap = sum(np.abs(_thirds(question)[s]) - np.abs(_thirds(image)[s]) for s in STAGES) / 3
        frame = summarise(gap, groups, {}, "%")
        frames.append(frame.assign(flow="question → last", control="", stage="|question| − |image|"))
    return pd.concat(frames, ignore_index=True)


def _left(rows: Rows, options: Any) -> pd.DataFrame:
    """What the cut leaves: mass on the options, and the answer first among them, against guessing."""
    frames, groups = [], rows.examples["group"]
    for flow, control, values in _each_flow(rows):
        shown = ~np.isnan(values[..., 0]).all(0)
        axes = {"layer": np.arange(values.shape[1])[shown]}
        for column, measure, unit in ((2, READ[2], "probability"), (3, READ[3], "share")):
            frame = summarise(values[:, shown, column], groups, axes, unit)
            frames.append(frame.assign(flow=flow, control=control, measure=measure))
    table = pd.concat(frames, ignore_index=True)
    return table.assign(guessing=np.where(table["measure"] == READ[3], rows["guess"].mean(), np.nan))


def _by_norm(rows: Rows, options: Any) -> pd.DataFrame:
    frames = []
    for norm in NORMS:
        values = rows[f"answer|{norm}"]
        axes = {"state": np.arange(values.shape[1])}
        frames.append(summarise(values, rows.examples["group"], axes, "probability").assign(norm=norm))
    return pd.concat(frames, ignore_index=True).assign(control="")


def _traced(rows: Rows, options: Any) -> pd.DataFrame | None:
    """The probability that restoring brings back, and its share of what the twin took (sums first, ratio last)."""
    if not any(name.startswith("trace|") for name in rows.values):
        return None
    frames, groups = [], rows.examples["group"]
    clean, corrupt = rows["trace|clean"], rows["trace|corrupt"]
    span = stats.group_bootstrap(clean - corrupt, groups)
    for name, values in rows.values.items():
        place = name.removeprefix("trace|")
        if place == name or place in ("clean", "corrupt") or np.isnan(values).all():
            continue
        shown = ~np.isnan(values).all(0)
        axes, moved = {"state": np.arange(values.shape[1])[shown]}, values[:, shown] - corrupt[:, None]
        frame = summarise(moved, groups, axes, "probability")
        frames.append(frame.assign(place=place, measure="restored"))
        if float(span.lower) > 0:  # No share of a difference that may be none.
            below = np.where(np.isnan(moved), np.nan, (clean - corrupt)[:, None])
            frame = summarise(moved, groups, axes, "share of clean − twin", denominators=below)
            frames.append(frame.assign(place=place, measure="normalised"))
    return pd.concat(frames, ignore_index=True).assign(control="")


def _compared(rows: Rows, options: Any) -> pd.DataFrame | None:
    """By halves of the states: what restoring the subject's last token brings back minus the last position, paired."""
    if not all(f"trace|{BUCKETS[i]}" in rows.values for i in (3, 5)):
        return None
    early, late = (np.array_split(rows[f"trace|{BUCKETS[i]}"], 2, axis=1) for i in (3, 5))
    frames = []
    for half, a, b in zip(HALVES, early, late, strict=True):
        gap = _mean_there(a) - _mean_there(b)
        frames.append(summarise(gap, rows.examples["group"], {}, "probability").assign(half=half, control=""))
    return pd.concat(frames, ignore_index=True)


def _mean_there(values: np.ndarray) -> np.ndarray:
    """[n, states] -> [n]: the mean over the states that were measured."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, 1) / (~np.isnan(values)).sum(1)


def _solved(rows: Rows) -> pd.DataFrame:
    groups = rows.examples["group"]
    shown = {
        ("top-1 accuracy", ""): rows["correct"],
        ("accuracy among the options", ""): rows["clean"][:, 3],
        ("accuracy among the options", "guessing"): rows["guess"],
        ("accuracy − guessing", ""): rows["clean"][:, 3] - rows["guess"],
        ("mass on the options", ""): rows["clean"][:, 2],
    }
    frames = [
        summarise(np.asarray(values, float), groups, {}, "share").assign(measure=measure, control=control)
        for (measure, control), values in shown.items()
    ]
    return pd.concat(frames, ignore_index=True)


TABLES = {
    "accuracy": (_accuracy, ("measure", "subset")),
    "flows": (_flows, ("flow", "measure", "width", "subset")),
    "stages": (_stages, ("flow", "stage", "subset")),
    "valid": (_valid, ("flow", "measure", "guessing", "subset")),
    "answer": (_answer, ("norm", "subset")),
    "trace": (_trace, ("place", "measure", "subset")),
    "sites": (_sites, ("half", "subset")),
}
