"""Tables of `changed_heads`: every head in both models, the size of the change by layer, and what was kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from ...probes.model.naming import called
from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.agreement import spearman
from ..common.contrast import task_table, unsolved
from ..common.frames import head_axes, joined, summarise
from ..common.stats import Estimate
from ..common.tested import nothing
from ._circuit_tables import DIRECT, EXACT
from ._held import held_by

KEPT, MORE, FEW = "the same heads carry the task", "heads were changed", "few heads were changed"
HALVES, SHUFFLED = "two halves of the examples", "the other heads of each layer in their place"
THIS, OTHER = "this model", "the other model"
RANKS, SIZE = "rank correlation over heads", "of the other model's effects"
CHANGE, FEW_SHARE = "change", 0.05
LIKE = 0.8  # correlation of effects from which on the same heads carry a task
MEASURES = (EXACT, DIRECT)


def other(name: str) -> str:
    """The name of the other model's rows."""
    return f"other|{name}"


def _theirs(rows: Rows) -> Rows:
    """The other model's rows under their plain names."""
    return replace(rows, values={n.removeprefix("other|"): v for n, v in rows.values.items() if n.startswith("other|")})


def _pair(rows: Rows, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """What every head gives the answer here and there, [n, layer, head]: clean minus patched, helps above 0."""
    return -rows[f"head|{measure}"], -rows[other(f"head|{measure}")]


def _task(rows: Rows, how: How) -> pd.DataFrame:
    """How well each model does the task."""
    both = {THIS: rows, called(how.options.reference) or OTHER: _theirs(rows)}
    return pd.concat([task_table(one, how).assign(model=name) for name, one in both.items()], ignore_index=True)


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """The change of every head (value), its effect here and there, and what two halves differ by (halves)."""
    groups, frames = rows.examples["group"], []
    for measure in MEASURES:
        ours, theirs = _pair(rows, measure)
        frame = summarise(ours - theirs, groups, head_axes(ours), "logits", measure=measure)
        columns = {"here": ours.mean(0), "there": theirs.mean(0), "halves": _halves(rows, measure).mean(0)}
        frame = frame.assign(**{name: values.ravel() for name, values in columns.items()})
        frames.append(frame.assign(p_value=stats.family_p(ours - theirs, groups).ravel()))
    return joined(frames)


def _halves(rows: Rows, measure: str) -> np.ndarray:
    """[n, layer, head] whose mean is the other model's effect in one half of the groups minus that in the other."""
    return _apart(_pair(rows, measure)[1], rows.examples["group"])


def _apart(values: np.ndarray, groups: pd.Series) -> np.ndarray:
    """[n, …] whose mean is the values' mean in one half of the groups minus that in the other; NaN of one group."""
    if groups.nunique() < 2:
        return np.full(values.shape, np.nan)
    first, second = stats.split_half(groups)
    signs = len(first) * (first / first.sum() - second / second.sum())
    return (values - values.mean(0)) * signs.reshape(-1, *[1] * (values.ndim - 1))


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """Root mean square over the heads of a layer: of the change, of two halves' difference, of the effects there."""
    groups, frames = rows.examples["group"].to_numpy(), []
    for measure in MEASURES:
        ours, theirs = _pair(rows, measure)
        sets = (("the change", "", ours - theirs), ("the change", HALVES, _halves(rows, measure)))
        for line, control, values in (*sets, ("the effects in the other model", "", theirs)):
            there = ~np.isnan(values).any((0, 2))
            if there.any():
                found = stats.bootstrap_statistic(values[:, there], groups, lambda mean: _size(mean, -1))
                frames.append(_rows(found, groups, "logits").assign(layer=np.flatnonzero(there), line=line)
                              .assign(control=control, measure=measure))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def _size(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    return np.sqrt(np.mean(values**2, axis))


def _rows(found: Estimate, groups: np.ndarray, unit: str) -> pd.DataFrame:
    cells = {name: np.ravel(x) for name, x in zip(("value", "lower", "upper"), found, strict=True)}
    return pd.DataFrame(cells).assign(n=len(groups), n_groups=len(np.unique(groups)), unit=unit)


def _kept(rows: Rows, how: How) -> pd.DataFrame:
    """Rank correlation of effects over heads: of both models, of other heads of the layers, of halves of one model."""
    return pd.concat([_correlated(rows, measure).assign(measure=measure) for measure in MEASURES], ignore_index=True)


def _correlated(rows: Rows, measure: str) -> pd.DataFrame:
    groups, maps = rows.examples["group"].to_numpy(), _maps(rows, measure)
    found = stats.bootstrap_statistic(maps, groups, _correlations)
    table = _rows(found, groups, RANKS).assign(control=["", SHUFFLED, "margin"])
    frames = [table[table["control"] != "margin"].assign(pair="both models")]
    if len(np.unique(groups)) > 1:
        for model, value in zip((THIS, OTHER), _of_halves(maps, groups), strict=True):
            own = {"value": value, "lower": np.nan, "upper": np.nan, "unit": RANKS}
            counts = {"n": len(groups), "n_groups": len(np.unique(groups)), "control": "", "pair": f"halves, {model}"}
            frames.append(pd.DataFrame([own | counts]))
    return pd.concat(frames, ignore_index=True)


def _maps(rows: Rows, measure: str) -> np.ndarray:
    """[n, 2 models, layers with heads, heads]."""
    both = np.stack(_pair(rows, measure), 1)
    return np.ascontiguousarray(both[:, :, ~np.isnan(both).any((0, 1, 3))])


def _correlations(mean: np.ndarray) -> np.ndarray:
    """Of both maps, of one with the heads of each layer turned round (mean over all turns), and the difference."""
    ours, theirs = mean
    own = spearman(ours.ravel(), theirs.ravel())
    turns = [spearman(np.roll(ours, by, -1).ravel(), theirs.ravel()) for by in range(1, ours.shape[-1])]
    beside = float(np.mean(turns)) if turns else np.nan
    return np.array([own, beside, own - beside])


def _sizes(mean: np.ndarray) -> np.ndarray:
    """The change, and what two halves differ by, over the other model's effects; and the difference.

    mean: [change, halves here, halves there, effects there] of layers and heads.
    """
    change, *halves, effects = _size(mean, (-2, -1))
    return np.array([change, max(halves), change - max(halves)]) / effects


def _of_halves(maps: np.ndarray, groups: np.ndarray) -> list[float]:
    """Of each model the rank correlation over heads of its maps in two halves of the groups."""
    halves = stats.split_half(groups)
    return [spearman(*(maps[half, model].mean(0).ravel() for half in halves)) for model in range(2)]


def _agreement(maps: np.ndarray, groups: np.ndarray) -> float:
    """How far a model's own map repeats: rank correlation of two halves of the groups, raised to the whole's length
    (Spearman–Brown); that of the model whose map repeats less.
    """
    own = min(_of_halves(maps, groups))
    return 2 * own / (1 + own) if own > 0 else 0.0


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    reason = _unsolved(rows, how)
    groups = rows.examples["group"].to_numpy()
    change = replace(rows, values={CHANGE: np.subtract(*_pair(rows, EXACT))})
    few = held_by(FEW, FEW_SHARE, change, how, CHANGE, reason)
    if len(np.unique(groups)) < 2:
        return pd.concat([nothing(name, "one group cannot be halved") for name in (KEPT, MORE, FEW)], ignore_index=True)
    maps = _maps(rows, EXACT)
    kept = _rows(stats.bootstrap_statistic(maps, groups, _correlations), groups, RANKS)
    own = _agreement(maps, groups)
    noisy = "" if own > LIKE else f"of one model alone two halves of the examples agree by {own:.2f}, not above {LIKE}"
    apart = _apart(maps, rows.examples["group"])
    four = np.stack([maps[:, 0] - maps[:, 1], apart[:, 0], apart[:, 1], maps[:, 1]], 1)
    more = _rows(stats.bootstrap_statistic(four, groups, _sizes), groups, SIZE)
    margins = [
        found.iloc[[0, 2]].assign(claim=claim, than=["", than], untestable=lacking)
        for claim, found, than, lacking in ((KEPT, kept, SHUFFLED, reason or noisy), (MORE, more, HALVES, reason))
    ]
    return pd.concat([*margins, *few], ignore_index=True)


def _unsolved(rows: Rows, how: How) -> str:
    """Why nothing can be said: one of the models does not do the task."""
    both = {THIS: rows, called(how.options.reference) or OTHER: _theirs(rows)}
    return "; ".join(f"{name}: {why}" for name, one in both.items() if (why := unsolved(one)))


TABLES = {
    "task": (_task, ("measure", "model")),
    "heads": (_heads, ("measure", "here", "there", "halves", "p_value")),
    "layers": (_layers, ("line", "measure")),
    "kept": (_kept, ("pair", "measure")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
