"""From where on something can be read, of a curve by state or layer."""

from __future__ import annotations

import numpy as np
import pandas as pd


def onset(curve: pd.DataFrame, axis: str, least: float = -np.inf, most: float = np.inf) -> str:
    """ "state 24": the first place from which on the values stay within the bounds; "no state" where there is none."""
    curve = curve.sort_values(axis)
    outside = ~curve["value"].between(least, most).to_numpy()
    first = int(outside.nonzero()[0][-1]) + 1 if outside.any() else 0
    return f"{axis} {int(curve[axis].iloc[first])}" if first < len(curve) else f"no {axis}"
