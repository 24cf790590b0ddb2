"""Tables of `edge_circuits`: the curves of faithfulness, their areas, what circuits hold, the numbers of the claims."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.agreement import FIVE, ONE
from ..common.contrast import apart, task_table, unsolved
from ..common.frames import summarise
from ..common.selection import measured_rows
from ..common.tested import nothing, number
from ._edge_auroc import RANDOM, auroc
from ._edge_levels import HELP, NEVER, RANKINGS, SHARES, SIZE, unpack

FEW, BETTER, HELPFUL = "few edges", "five gradients", "helpful edges"
CLAIMED = 0.05
ENDS = "both ends"
GIVEN = "the given circuit"
ACTIVATIONS = "5 steps, activations"
EDGES, NEURONS = RANDOM, "random neurons of the same writers"
OF_NEURONS = "circuits of neurons were asked for (--edge_circuits.level): the statement is of edges"
UNIT = "share of the effect"
AREAS = {HELP: "CPR", SIZE: "CMD"}


def _scored(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "edge_circuits")


def _control(how: How) -> str:
    return NEURONS if how.learned.width else EDGES


def _curves(rows: Rows, random: str) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Method, ranking, control and m − m₀ [n, shares], the whole model last."""
    whole, none = rows["clean"][:, None], rows["none"][:, None]
    for name in (one for one in rows.values if one.startswith("curve|")):
        _, method, ranking = name.split("|", 2)
        yield method, ranking, "", np.concatenate([rows[name], whole], 1) - none
    for ranking in RANKINGS:
        mixed = rows[f"random|{ranking}"].mean(1)
        if not np.isnan(mixed).all():
            yield FIVE, ranking, random, np.concatenate([mixed, whole], 1) - none


def _span(rows: Rows) -> np.ndarray:
    return rows["clean"] - rows["none"]


def _curve(rows: Rows, how: How) -> pd.DataFrame | None:
    mine = _scored(rows, how)
    groups, span = mine.examples["group"], _span(mine)
    if not apart(span, groups):
        return None
    frames = [
        summarise(
            above,
            groups,
            {"share": SHARES},
            UNIT,
            denominators=np.broadcast_to(span[:, None], above.shape),
            method=method,
            ranking=ranking,
            control=control,
        )
        for method, ranking, control, above in _curves(mine, _control(how))
    ]
    return pd.concat(frames, ignore_index=True)


def _area(rows: Rows, how: How) -> pd.DataFrame | None:
    """CPR of edges that help most first, CMD of largest |effect| first."""
    mine = _scored(rows, how)
    groups, span = mine.examples["group"], _span(mine)
    if not apart(span, groups):
        return None
    found = []
    for method, ranking, control, above in _curves(mine, _control(how)):
        estimate = _areas(np.concatenate([above, span[:, None]], 1), groups, AREAS[ranking])
        told = {"measure": AREAS[ranking], "method": method, "control": control, "unit": "area"}
        found.append(told | estimate)
    return pd.DataFrame(found)


def _areas(points: np.ndarray, groups: pd.Series, name: str) -> dict[str, float]:
    """An area of the mean curve with its interval; points: [n, shares + 1], the last column the denominators."""
    found = stats.bootstrap_statistic(points, groups, lambda mean: np.array([_of(mean, name)]))
    value, lower, upper = (float(one[0]) for one in found)
    return {"value": value, "lower": lower, "upper": upper, "n": len(points), "n_groups": groups.nunique()}


def _of(mean: np.ndarray, name: str) -> float:
    return metrics.circuit_areas(mean[:-1] / mean[-1], SHARES)[name]


def _kept(rows: Rows, how: How) -> pd.DataFrame:
    """What the circuits of each size hold after pruning: edges (or neurons), heads, MLPs."""
    kinds = [writer[0] for writer in how.learned.writers]
    found = []
    for name, levels in _levels(how):
        method, ranking = name.split("|", 1)
        for place, share in enumerate(SHARES):
            there = levels <= place
            alive = [kind for kind, edges in zip(kinds, there.sum(0), strict=True) if edges]
            counts = {
                "neurons" if how.learned.width else "edges": int(there.sum()),
                "heads": alive.count("head"),
                "MLPs": alive.count("mlp"),
            }
            told = {"method": method, "ranking": ranking, "share": share}
            found += [told | {"measure": what, "value": count, "unit": "number"} for what, count in counts.items()]
    return pd.DataFrame(found)


def _nodes(rows: Rows, how: How) -> pd.DataFrame:
    """By head the smallest share of edges (neurons) whose circuit has it, largest |effect| first; 1 where none has."""
    found, of = [], "neurons" if how.learned.width else "edges"
    for name, levels in _levels(how):
        method, ranking = name.split("|", 1)
        if ranking != SIZE:
            continue
        first = levels.min(0)
        for (kind, layer, head), place in zip(how.learned.writers, first, strict=True):
            if kind == "head":
                share = 1.0 if place == NEVER else SHARES[int(place)]
                found.append({"layer": layer, "head": head, "value": share, "unit": f"share of {of}", "method": method})
    return pd.DataFrame(found)


def _levels(how: How) -> Iterator[tuple[str, np.ndarray]]:
    shape = (how.learned.width or len(how.learned.readers), len(how.learned.writers))
    for name, text in how.learned.levels.items():
        yield name, unpack(text, shape).numpy()


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    mine = _scored(rows, how)
    groups, span = mine.examples["group"], _span(mine)
    reason = OF_NEURONS if how.learned.width else unsolved(mine)
    if not apart(span, groups):
        said = reason or "clean and no edge kept do not differ here: faithfulness is not defined"
        return pd.concat([nothing(name, said) for name in (FEW, BETTER, HELPFUL)], ignore_index=True)
    curves = {(method, ranking, control): above for method, ranking, control, above in _curves(mine, _control(how))}
    frames = [_few(curves, groups, span, reason), _better(curves, groups, span, reason)]
    return pd.concat([*frames, _helpful(curves, groups, span, reason)], ignore_index=True)


def _few(curves: dict, groups: pd.Series, span: np.ndarray, reason: str) -> pd.DataFrame:
    at, given = SHARES.index(CLAIMED), {"denominators": span, "untestable": reason}
    own = curves[FIVE, SIZE, ""][:, at]
    frames = [number(FEW, own, groups, UNIT, **given)]
    if (FIVE, SIZE, EDGES) in curves:
        frames.append(number(FEW, own - curves[FIVE, SIZE, EDGES][:, at], groups, UNIT, than=EDGES, **given))
    return pd.concat(frames, ignore_index=True)


def _better(curves: dict, groups: pd.Series, span: np.ndarray, reason: str) -> pd.DataFrame:
    """CMD of five gradients minus that of one."""
    both = [curves[method, SIZE, ""] for method in (FIVE, ONE)]
    return _difference(BETTER, both, groups, span, "CMD", reason)


def _helpful(curves: dict, groups: pd.Series, span: np.ndarray, reason: str) -> pd.DataFrame:
    own = curves[FIVE, HELP, ""]
    points = np.concatenate([own, span[:, None]], 1)
    row = _areas(points, groups, "CPR") | {"claim": HELPFUL, "than": "", "untestable": reason, "unit": "area"}
    frames = [pd.DataFrame([row])]
    if (FIVE, HELP, EDGES) in curves:
        both = [own, curves[FIVE, HELP, EDGES]]
        frames.append(_difference(HELPFUL, both, groups, span, "CPR", reason, EDGES))
    return pd.concat(frames, ignore_index=True)


def _difference(
    claim: str, both: list[np.ndarray], groups: pd.Series, span: np.ndarray, name: str, reason: str, than: str = ""
) -> pd.DataFrame:
    """The first curve's area minus the second's, resampled together."""
    points = np.concatenate([np.stack(both, 1), np.broadcast_to(span[:, None, None], (len(span), 2, 1))], 2)

    def apart_by(mean: np.ndarray) -> np.ndarray:
        return np.array([_of(mean[0], name) - _of(mean[1], name)])

    found = stats.bootstrap_statistic(points, groups, apart_by)
    bounds = {key: float(one[0]) for key, one in zip(("value", "lower", "upper"), found, strict=True)}
    counts = {"n": len(points), "n_groups": groups.nunique(), "unit": "area"}
    return pd.DataFrame([bounds | counts | {"claim": claim, "than": than, "untestable": reason}])


TABLES = {
    "task": (task_table, ("measure",)),
    "curve": (_curve, ("share", "method", "ranking")),
    "area": (_area, ("measure", "method")),
    "kept": (_kept, ("share", "method", "ranking", "measure")),
    "nodes": (_nodes, ("method",)),
    "auroc": (auroc, ("method",)),
    "tested": (_tested, ("claim", "than", "untestable")),
}
