"""What `overlap` found in this model: how many heads two tasks share at each stage, beside what depth alone gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..common.circuit_overlap import above_depth
from ..common.claims import LEVEL
from ..common.findings import Finding, place, rows_with, say
from ..common.stats import benjamini_hochberg
from ._overlap_tables import CLAIMED

Tables = Mapping[str, pd.DataFrame]

DEPTH = "heads drawn from the same layers"
NUMBERS = "{pair} share {common:.0f} of {size:.0f} heads ({stage}; {control}: {expected:.1f}; q {q:.2g})"


def findings(tables: Tables) -> list[Finding]:
    """Every pair and stage at 2 %; q is over all of them, since no stage was named beforehand."""
    overlap = rows_with(tables.get("overlap"), share=CLAIMED)
    if overlap.empty:
        return []
    q = benjamini_hochberg(overlap["p_value"].to_numpy())
    return [_shared(row, float(at), tables) for row, at in zip(overlap.to_dict("records"), q, strict=True)]


def _shared(row: Mapping[Any, Any], q: float, tables: Tables) -> Finding:
    """The row is the excess over depth: columns lower and upper of `overlap` are the range that depth gives."""
    return say(
        f"{NUMBERS}{{signs}}",
        f"{NUMBERS}: not shown to be more than depth alone gives{{least}}",
        above_depth(row),
        about=f"what {row['pair']} share ({row['measure']})",
        figure="overlap",
        control=DEPTH,
        side="above",
        p_value=q,
        heads=_common(row, tables),
        untestable=row["untestable"],
        pair=row["pair"],
        common=float(row["common"]),
        size=float(row["heads"]),
        stage=row["measure"],
        expected=float(row["expected"] * row["heads"]),
        q=q,
        signs=_signs(row, tables),
        least=_least(row),
    )


def _least(row: Mapping[Any, Any]) -> str:
    """Where so few heads lie in these layers that even all of them in common could be chance."""
    said = ", and no number of heads in common could be (p of all of them {:.2g})"
    return said.format(row["p_least"]) if row["p_least"] > 1 - LEVEL else ""


def _common(row: Mapping[Any, Any], tables: Tables) -> str:
    """The heads that both tasks use, as far as the table names them."""
    both = set(str(row["pair"]).split(" and "))
    used = rows_with(tables.get("circuit"), measure=row["measure"])
    return " ".join(place(one) for _, one in used.iterrows() if both <= set(str(one["tasks"]).split(", ")))


def _signs(row: Mapping[Any, Any], tables: Tables) -> str:
    """Whether the heads do the same in both tasks: the rank correlation of signed effects beside what halves allow."""
    found = rows_with(tables.get("correlation"), pair=row["pair"], measure=row["measure"], kind="effect")
    if found.empty or np.isnan(found.iloc[0]["ceiling"]):
        return ""
    value, ceiling = found.iloc[0]["value"], found.iloc[0]["ceiling"]
    return f"; over all heads their effects correlate by {value:.2f} of at most {ceiling:.2f}".replace("-", "−")
