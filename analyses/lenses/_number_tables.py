"""Tables of `number_spectrum`: shares of periods by module and layer, what filters cost, and the numbers of claims."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.claims import unsolved
from ..common.controls import NUMBERS, SUBSPACES, WORDS
from ..common.frames import joined, summarise
from ..common.tested import nothing, number
from ._number_rows import FAST, MODULES, READ, SLOW, parts_of

WRITERS = ("attention", "MLP")
SHARES, NEED_SLOW, NEED_FAST = "MLPs slow, attention fast", "MLPs need slow waves", "attention needs fast waves"
MEASURES = {
    READ[0]: ("lead of the right number", "logits"),
    READ[1]: ("accuracy among the numbers", "share"),
    READ[2]: ("distance from the right number", "numbers"),
}
AROUND = 9  # numbers below and above the answer


def _power(rows: Rows, module: str, control: str = "") -> np.ndarray:
    """Squares by component, [n, layer, component]."""
    if control == WORDS:
        return rows[f"random|{module}"]
    return metrics.period_power(torch.from_numpy(rows[f"logits|{module}"])).numpy()


def _expected(count: int) -> np.ndarray:
    """Each component's share in the mean over all orders of the numbers."""
    return np.bincount(metrics.period_components(count).numpy())[1:] / (count - 1)


def _count(rows: Rows) -> int:
    return int(rows["numbers"][0])


def _spectrum(rows: Rows, how: How) -> pd.DataFrame:
    """Share of each period in what a module's number logits vary by: Σ squares of it / Σ squares of all."""
    return joined(
        _shares(rows, module, control, _power(rows, module, control))
        for module in WRITERS
        for control in ("", NUMBERS, WORDS)
    )


def _shares(rows: Rows, module: str, control: str, power: np.ndarray) -> pd.DataFrame:
    count, total = _count(rows), np.broadcast_to(power.sum(-1, keepdims=True), power.shape)
    part = total * _expected(count) if control == NUMBERS else power
    axes = {"layer": np.arange(power.shape[1]), "component": np.arange(1, power.shape[2] + 1)}
    frame = summarise(part, rows.examples["group"], axes, "share", denominators=total, control=control, module=module)
    return frame.assign(period=[f"{count / k:.3g}" for k in frame["component"]])


def _slow(rows: Rows, how: How) -> pd.DataFrame:
    """The slow periods together, by layer."""
    return joined(
        _slow_of(rows, module, control, how.options.cut) for module in WRITERS for control in ("", NUMBERS, WORDS)
    )


def _slow_of(rows: Rows, module: str, control: str, cut: int) -> pd.DataFrame:
    power = _power(rows, module, control)
    total = power.sum(-1)
    part = total * _expected(_count(rows))[: cut - 1].sum() if control == NUMBERS else power[..., : cut - 1].sum(-1)
    axes = {"layer": np.arange(power.shape[1])}
    return summarise(part, rows.examples["group"], axes, "share", denominators=total, control=control, module=module)


def _offsets(rows: Rows, how: How) -> pd.DataFrame:
    """A number's logit over the mean of all numbers, by how far it lies from the answer."""
    answer, count = rows["answer"].astype(int), _count(rows)
    at = answer[:, None] + np.arange(-AROUND, AROUND + 1)
    inside = (at >= 0) & (at < count)
    parts = []
    for module in WRITERS:
        read = np.take_along_axis(rows[f"logits|{module}"], at.clip(0, count - 1)[:, None], 2)
        values = np.where(inside[:, None], read, np.nan)
        axes = {"layer": np.arange(values.shape[1]), "offset": np.arange(-AROUND, AROUND + 1)}
        parts.append(summarise(values, rows.examples["group"], axes, "logits").assign(control="", module=module))
    return joined(parts)


def _size(rows: Rows, how: How) -> pd.DataFrame:
    """The numbers' standard deviation of what a module writes, beside that of random words."""
    parts = []
    for module in WRITERS:
        own = rows[f"logits|{module}"].std(-1)
        for control, values in (("", own), (WORDS, rows[f"random size|{module}"])):
            axes = {"layer": np.arange(own.shape[1])}
            parts.append(summarise(values, rows.examples["group"], axes, "logits", control=control, module=module))
    return joined(parts)


def _kinds(how: How) -> dict[str, slice]:
    draws = how.options.draws
    return {"": slice(0, 1), NUMBERS: slice(1, 1 + draws), SUBSPACES: slice(1 + draws, 1 + 2 * draws)}


def _filters(rows: Rows, how: How) -> pd.DataFrame:
    """Every measure with a part of the waves taken out, minus without; controls are means of their draws."""
    parts = [*parts_of(_count(rows), how.options.cut)]
    return joined(
        summarise(
            rows[f"filtered|{name}"][:, kind].mean(1) - rows[f"clean|{name}"][:, None, None],
            rows.examples["group"],
            {"module": [*MODULES], "part": parts},
            unit,
        ).assign(control=control, measure=said)
        for name, (said, unit) in MEASURES.items()
        for control, kind in _kinds(how).items()
    )


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups = rows.examples["group"]
    own, words = (_apart(rows, how.options.cut, control) for control in ("", WORDS))
    parts = [number(SHARES, own, groups, "share"), number(SHARES, own - words, groups, "share", than=WORDS)]
    guessing = number("", rows["clean|right"] - 1 / _count(rows), groups, "share").iloc[0]
    return pd.concat([*parts, *_needed(rows, how, unsolved(guessing))], ignore_index=True)


def _apart(rows: Rows, cut: int, control: str) -> np.ndarray:
    """The slow share of the MLPs of the second half of the layers minus that of their attentions, [n]."""
    shares = {}
    for module in WRITERS:
        power = _power(rows, module, control)
        late = np.nansum(power[:, power.shape[1] // 2 :], 1)
        shares[module] = late[:, : cut - 1].sum(1) / late.sum(1)
    return shares["MLP"] - shares["attention"]


def _needed(rows: Rows, how: How, reason: str) -> Iterator[pd.DataFrame]:
    parts = [*parts_of(_count(rows), how.options.cut)]
    loss = rows["clean|lead"][:, None, None, None] - rows["filtered|lead"]
    attention, mlp = loss[:, :, 0], loss[:, :, 1]
    gaps = {NEED_SLOW: (mlp - attention)[..., parts.index(SLOW)], NEED_FAST: (attention - mlp)[..., parts.index(FAST)]}
    for claim, gap in gaps.items():
        if reason:
            yield nothing(claim, reason)
            continue
        own, other = (gap[:, kind].mean(1) for kind in (_kinds(how)[""], _kinds(how)[NUMBERS]))
        yield number(claim, own, rows.examples["group"], "logits")
        yield number(claim, own - other, rows.examples["group"], "logits", than=NUMBERS)


TABLES = {
    "spectrum": (_spectrum, ("module", "component", "period")),
    "slow": (_slow, ("module",)),
    "offsets": (_offsets, ("module", "offset")),
    "size": (_size, ("module",)),
    "filters": (_filters, ("module", "part", "measure")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
