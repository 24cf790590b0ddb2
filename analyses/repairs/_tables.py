"""Tables and claims of `repairs`: measures of every variant, paired differences, and what a verdict needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import hallucination, stats
from ..common.claims import unseen
from ..common.frames import head_axes, summarise

NONE = "none"
COUNTS = ("named", "hallucinated", "found", "there", "length")
ABOVE_CHANCE, WITH_SINK, CALIBRATED = "accuracy − guessing", "layers with a visual sink", "heads that ACT calibrates"
LEAD = "lead of the right answer"  # moves where no answer does
F1 = hallucination.POPE.index("F1")
UNITS = hallucination.UNITS | {LEAD: "logits"}
Ratios = dict[str, tuple[np.ndarray, np.ndarray]]  # variant -> numerators and denominators [n, draws]


class Variant(NamedTuple):
    """One way to run the model. draws: how many times it is drawn. open: (subject, seed) -> what is active; the seed is
    a number, or a key for each prompt. how: what the repair is called with beside its seed.
    """

    repair: str
    setting: float
    control: str
    draws: int
    open: Callable[[Any, int | Sequence[str]], AbstractContextManager[Any]]
    how: Mapping[str, Any] = {}

    @property
    def key(self) -> str:
        return f"{self.repair}|{self.setting:g}|{self.control}"


Known = Mapping[str, Variant]


def measures(rows: Rows, variants: Sequence[Variant]) -> pd.DataFrame:
    """Every measure of every variant; draws_lower and draws_upper: 2.5 and 97.5 % of a control's draws."""
    known, found = {v.key: v for v in variants}, []
    for subset, part in _parts(rows):
        for name, ratios in _ratios(part, known).items():
            found += [_measure(part, known[key], name, ratio) | {"subset": subset} for key, ratio in ratios.items()]
        found += [row | {"subset": subset} for row in (_over_sets(part, known)[0] if subset == "all" else [])]
    return pd.DataFrame(found)


def differences(rows: Rows, variants: Sequence[Variant]) -> pd.DataFrame:
    """repair − plain ("against" "plain") and repair − control ("against" the control), paired; control − plain in rows
    with control; other rule − the repair as it is ("against" its name). detectable: see `_detectable`.
    """
    known, found = {v.key: v for v in variants}, []
    for subset, part in _parts(rows):
        for name, ratios in _ratios(part, known).items():
            found += [row | {"subset": subset} for row in _differences(part, known, name, ratios)]
        found += [row | {"subset": subset} for row in (_over_sets(part, known)[1] if subset == "all" else [])]
    return pd.DataFrame([row | {"detectable": _detectable(row)} for row in found])


def preconditions(rows: Rows, variants: Sequence[Variant]) -> pd.DataFrame | None:
    """What a verdict needs."""
    known = {v.key: v for v in variants}
    frames = [frame.assign(subset=subset) for subset, part in _parts(rows) for frame in _preconditions(part, known)]
    return pd.concat(frames, ignore_index=True) if frames else None


def _parts(rows: Rows) -> list[tuple[str, Rows]]:
    """The whole task, and its kinds where there are several."""
    parts = rows.subsets("kind")
    return parts if len(parts) > 2 else parts[:1]


# ---------------------------------------------------------------- ratios of sums


def _ratios(part: Rows, known: Known) -> dict[str, Ratios]:
    """Measure -> variant -> numerators and denominators."""
    found: dict[str, Ratios] = {}
    for key in known:
        for name, pair in _measures_of(part[key], known[key].draws).items():
            found.setdefault(name, {})[key] = pair
    return found


def _measures_of(values: np.ndarray, draws: int) -> Ratios:
    per_draw = []
    for draw in range(draws):
        if values.shape[2] == len(COUNTS):
            per_draw.append(hallucination.chair_ratios(*values[:, draw].T))
            continue
        right, ones = values[:, draw, 0], np.ones(len(values))
        known = not np.isnan(values[:, draw, 1]).any()
        made = hallucination.pope_ratios(*_said_and_true(values[:, draw])) if known else {"accuracy": (right, ones)}
        per_draw.append(made | ({LEAD: (values[:, draw, 2], ones)} if values.shape[2] > 2 else {}))
    return {n: tuple(np.stack([d[n][i] for d in per_draw], 1) for i in (0, 1)) for n in per_draw[0]}  # type: ignore


def _said_and_true(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (right, yes, …) [n, …]: whether the answer is a yes, and whether it ought to be."""
    right, yes = values[:, :2].T == 1
    return yes, yes == right


def _measure(part: Rows, variant: Variant, name: str, ratio: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    top, bottom = (x.sum(1) for x in ratio)
    found = stats.ratio_bootstrap(top, bottom, part.examples["group"])
    with np.errstate(invalid="ignore", divide="ignore"):
        each = ratio[0].sum(0) / ratio[1].sum(0)
    spread = np.nanquantile(each, [0.025, 0.975]) if variant.draws > 1 and np.isfinite(each).any() else (np.nan,) * 2
    drawn = {"draws": variant.draws, "draws_lower": float(spread[0]), "draws_upper": float(spread[1])}
    return _row(part, variant, name, found) | drawn


def _row(part: Rows, variant: Variant, measure: str, found: tuple[Any, ...]) -> dict[str, Any]:
    """found: value, lower, upper, and p where there is one."""
    names = {name: getattr(variant, name) for name in ("control", "repair", "setting")} | {"measure": measure}
    numbers = {name: float(x) for name, x in zip(("value", "lower", "upper", "p_value"), found, strict=False)}
    counts = {"n": len(part.examples), "n_groups": part.examples["group"].nunique()}
    return names | numbers | counts | {"unit": UNITS.get(measure, "share")}


def _pairs(known: Known) -> Iterator[tuple[str, str, str]]:
    """(variant, the other, its name): all against the plain model, repairs against their controls, other rules against
    the repair as it is.
    """
    plain = next(key for key, v in known.items() if v.repair == NONE)
    for key, variant in known.items():
        itself = variant.repair.split(",")[0]
        if key != plain:
            yield key, plain, "plain"
        if itself != variant.repair:
            yield key, variant._replace(repair=itself).key, itself
        if variant.control:
            yield variant._replace(control="").key, key, variant.control


def _differences(part: Rows, known: Known, name: str, ratios: Ratios) -> list[dict[str, Any]]:
    pooled = {key: (top.sum(1), bottom.sum(1)) for key, (top, bottom) in ratios.items()}
    groups = part.examples["group"]
    return [
        _row(part, known[key], name, stats.ratio_difference(pooled[key], pooled[other], groups)) | {"against": against}
        for key, other, against in _pairs(known)
    ]


def _detectable(row: Mapping[str, Any]) -> float:
    """The smallest difference that n shows: half the interval; of shares that nothing changed, what may go unseen."""
    half = float(max(row["upper"] - row["value"], row["value"] - row["lower"]))
    if half > 0 or np.isnan(half):
        return half
    return unseen(row["n_groups"]) if row["unit"] == "share" else np.nan


# ---------------------------------------------------------------- POPE's sets


def _over_sets(part: Rows, known: Known) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """F1 averaged over POPE's sets, as papers report it, and its differences; nothing where there is one set."""
    names = part.examples["kind"].astype(str) if "kind" in part.examples else pd.Series(dtype=str)
    yes_or_no = not any(np.isnan(part[key][..., 1]).any() for key in known)
    if names.nunique() < 2 or not names.str.startswith("pope_").all() or not yes_or_no:
        return [], []
    groups, measure = part.examples["group"], f"F1, mean of {names.nunique()} sets"
    counts = {key: _by_set(part[key], names) for key in known}

    def over(*keys: str) -> tuple[Any, ...]:
        """The average, or the difference of two variants'."""
        both = np.stack([counts[key] for key in keys], 1)
        return stats.bootstrap_statistic(both, groups, _averaged)

    averaged = [_row(part, known[key], measure, over(key)) | {"draws": known[key].draws} for key in known]
    pairs = _pairs(known)
    return averaged, [_row(part, known[a], measure, over(a, b)) | {"against": name} for a, b, name in pairs]


def _by_set(values: np.ndarray, names: pd.Series) -> np.ndarray:
    """Numerators and denominators of POPE's measures summed over draws, [n, set, measure, 2]."""
    draws = [hallucination.pope_by_set(*_said_and_true(one), names) for one in values.swapaxes(0, 1)]
    return np.sum(draws, 0)


def _averaged(means: np.ndarray) -> np.ndarray:
    """[1 or 2, set, measure, 2] -> F1 of the first, less the second's."""
    first, *second = (hallucination.over_sets(one)[F1] for one in means)
    return np.asarray(first - (second[0] if second else 0.0))


# ---------------------------------------------------------------- what a verdict needs


def _preconditions(part: Rows, known: Known) -> list[pd.DataFrame]:
    groups, plain = part.examples["group"], part[next(key for key, v in known.items() if v.repair == NONE)]
    numbers = [] if plain.shape[2] == len(COUNTS) else [(ABOVE_CHANCE, plain[:, 0, 0] - 0.5, "share")]
    for name, unit in ((WITH_SINK, "share of layers"), (CALIBRATED, "heads")):
        numbers += [(name, part[name], unit)] if name in part.values else []
    return [summarise(values, groups, {}, unit, measure=measure) for measure, values, unit in numbers]


def heads(rows: Rows, how: How) -> pd.DataFrame | None:
    """How often VHR chose each head."""
    if "heads" not in rows.values:
        return None
    frame = summarise(rows["heads"], rows.examples["group"], head_axes(rows["heads"]), "share of examples")
    return frame.assign(measure="chosen by VHR")
