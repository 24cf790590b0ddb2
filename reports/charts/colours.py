"""Colour scales of maps: from the bulk of the cells, so that no single one swallows the range."""

from __future__ import annotations

import math
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd

from .style import SIGNED, UNSIGNED, number, plain

LETTERS = 13  # of a line above the bar
SWALLOWS = 2.0  # times the 99th percentile: from there the largest cell is said by "≥"


def colours(
    values: pd.Series, signed: bool, scale: tuple[float, float] | None = None, unit: str = ""
) -> dict[str, Any]:
    """Scale, ends and colour bar of a map; the unit stands above the bar, in short lines.

    Where the largest value is more than twice the 99th percentile (or the least less than twice the 1st), the
    scale ends there and the bar says "≥" ("≤").
    """
    known = values.dropna().to_numpy(dtype=float)
    low, high = _ends(known, signed) if scale is None else scale
    if signed:
        high = max(abs(low), abs(high)) or 1.0
        low, middle = -high, {"zmid": 0}
    else:
        low, middle = (low, {}) if scale else (min(low, 0.0), {})
    high = high if high > low else low + 1
    bar = {"thickness": 12, "outlinewidth": 0, "x": 1.01, "len": 1, "tickfont": {"size": 11.5}}
    title = "<br>".join(plain(line) for line in wrap(unit, LETTERS))
    bar |= {"title": {"text": title, "side": "top", "font": {"size": 11.5}}, **_ticks(low, high, known)}
    return {"colorscale": SIGNED if signed else UNSIGNED, "colorbar": bar, "zmin": low, "zmax": high, **middle}


def _ends(known: np.ndarray, signed: bool) -> tuple[float, float]:
    if not len(known):
        return 0.0, 1.0
    if signed:
        reach = _robust(np.abs(known))
        return -reach, reach
    low = -_robust(-known) if known.min() < 0 else float(known.min())
    return low, _robust(known)


def _robust(known: np.ndarray) -> float:
    """The greatest value, or the 99th percentile where that is less than half of it."""
    most, bulk = float(known.max()), float(np.quantile(known, 0.99))
    return float(f"{bulk:.3g}") if 0 < SWALLOWS * bulk < most else most


def _ticks(low: float, high: float, known: np.ndarray) -> dict[str, Any]:
    """Round ticks; the ends are named "≥" and "≤" where values lie beyond them."""
    step = _round_step((high - low) / 5)
    room = 0.45 * step
    over, under = (bool(len(known)) and known.max() > high * (1 + 1e-9), bool(len(known)) and known.min() < low)
    ticks = [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    ticks = [t for t in ticks if not (over and high - t < room) and not (under and t - low < room)]
    texts = [number(float(f"{t:.6g}")) for t in ticks]
    ticks, texts = ([low, *ticks], [f"≤ {number(low)}", *texts]) if under else (ticks, texts)
    ticks, texts = ([*ticks, high], [*texts, f"≥ {number(high)}"]) if over else (ticks, texts)
    return {"tickvals": [float(f"{t:.6g}") for t in ticks], "ticktext": texts}


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, not below `least`."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next((m * power for m in (1, 2, 5) if m * power >= least * (1 - 1e-9)), 10 * power)
