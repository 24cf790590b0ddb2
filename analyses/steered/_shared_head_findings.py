"""What `shared_heads` found: how many chosen heads two tasks have in common, beside what depth alone gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..common.circuit_overlap import above_depth
from ..common.findings import Finding, place, say
from ._shared_head_tables import DEPTH

Tables = Mapping[str, pd.DataFrame]
NUMBERS = "{pair} choose {common:.0f} of {size:.0f} heads in common ({control}: {expected:.1f}; q {q:.2g}{again})"


def findings(tables: Tables) -> list[Finding]:
    """Every pair of tasks."""
    shared = tables.get("shared")
    return [] if shared is None else [_pair(row, tables["heads"]) for row in shared.to_dict("records")]


def _pair(row: Mapping[Any, Any], heads: pd.DataFrame) -> Finding:
    again = row["ceiling"]
    return say(
        NUMBERS,
        f"{NUMBERS}: not shown to be more than depth alone gives",
        above_depth(row),
        about=f"which heads {row['pair']} choose in common",
        figure="shared",
        control=DEPTH,
        side="above",
        p_value=float(row["q_value"]),
        untestable=row["untestable"],
        heads=_common(str(row["pair"]), heads),
        pair=row["pair"],
        common=float(row["common"]),
        size=float(row["heads"]),
        expected=float(row["expected"] * row["heads"]),
        q=float(row["q_value"]),
        again="" if np.isnan(again) else f"; two seeds of one task: {again * row['heads']:.1f}",
    )


def _common(pair: str, heads: pd.DataFrame) -> str:
    """The heads that both tasks choose."""
    both = {*pair.split(" and ")}
    return " ".join(place(one) for _, one in heads.iterrows() if both <= {*str(one["tasks"]).split(", ")})
