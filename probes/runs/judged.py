"""Claims and findings of a page: asked of each condition's rows alone, then seen together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pandas as pd

Tables = Mapping[str, pd.DataFrame]


def said_of(module: ModuleType, tables: Tables, conditions: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The tables `claims` and `findings`, of an analysis that makes them."""
    made = {"claims": judged, "findings": found}
    return {name: of(module, tables, conditions) for name, of in made.items() if hasattr(module, name)}


def judged(module: ModuleType, tables: Tables, conditions: Sequence[str]) -> pd.DataFrame:
    """`module.claims(tables)` for every condition, with its name in the column condition.

    A table with a column condition is cut to the rows of that condition, the others are passed whole; where no table
    has one, the claims are asked once. `corrected` of the claims' own class then sees all claims of the page, in order.
    """
    asked = _asked(module.claims, tables, conditions)
    claims = [claim for _, claim in asked]
    table = pd.DataFrame(type(claims[0]).corrected(claims) if claims else [])
    if len(table) != len(claims):
        raise ValueError(f"{module.__name__}: {len(claims)} claims, {len(table)} behind their correction")
    table.insert(0, "condition", [name for name, _ in asked])
    return table


STATES = ("found", "open", "not testable")  # a finding's, in the order of the page


def found(module: ModuleType, tables: Tables, conditions: Sequence[str]) -> pd.DataFrame:
    """`module.findings(tables)` for every condition, with its name in the column condition: what is found first, the
    strongest first, then what is left open, then what cannot be tested.
    """
    asked = _asked(module.findings, tables, conditions)
    asked.sort(key=lambda one: (STATES.index(one[1].state), -one[1].rank if one[1].rank == one[1].rank else 0.0))
    table = pd.DataFrame([finding for _, finding in asked])
    table.insert(0, "condition", [name for name, _ in asked])
    return table


def _asked(ask: Callable[[Tables], list[Any]], tables: Tables, conditions: Sequence[str]) -> list[tuple[str, Any]]:
    """(condition, what is said of it): of each condition's rows, or once where no table has conditions."""
    if not any("condition" in table for table in tables.values()):
        conditions = [" and ".join(conditions)]
    return [(name, one) for name in conditions for one in ask(rows_of(tables, name))]


def rows_of(tables: Tables, condition: str) -> dict[str, pd.DataFrame]:
    """The rows of one condition; tables without a column condition are passed whole."""
    return {
        name: table[table["condition"] == condition].reset_index(drop=True) if "condition" in table else table
        for name, table in tables.items()
    }
