"""Claims of a page: asked of each condition's rows alone, corrected for their number on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import pandas as pd


def judged(module: ModuleType, tables: Mapping[str, pd.DataFrame], conditions: Sequence[str]) -> pd.DataFrame:
    """`module.claims(tables)` for every condition, with its name in the column condition.

    A table with a column condition is cut to the rows of that condition, the others are passed whole; where no table
    has one, the claims are asked once. `corrected` of the claims' own class then sees all claims of the page, in order.
    """
    if not any("condition" in table for table in tables.values()):
        conditions = [" and ".join(conditions)]
    asked = [(name, claim) for name in conditions for claim in module.claims(rows_of(tables, name))]
    claims = [claim for _, claim in asked]
    table = pd.DataFrame(type(claims[0]).corrected(claims) if claims else [])
    if len(table) != len(claims):
        raise ValueError(f"{module.__name__}: {len(claims)} claims, {len(table)} behind their correction")
    table.insert(0, "condition", [name for name, _ in asked])
    return table


def rows_of(tables: Mapping[str, pd.DataFrame], condition: str) -> dict[str, pd.DataFrame]:
    """The rows of one condition; tables without a column condition are passed whole."""
    return {
        name: table[table["condition"] == condition].reset_index(drop=True) if "condition" in table else table
        for name, table in tables.items()
    }
