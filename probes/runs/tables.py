"""The tables of an analysis: its makers asked of each condition's rows, joined, their columns in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ...data.errors import NothingToMeasure
from .results import How, Rows

# The columns that tables share, in the order of every table; behind them come a table's own.
SHARED = (
    *("subject", "task", "analysis", "condition", "control", "state", "layer", "head"),
    *("value", "lower", "upper", "n", "n_groups", "unit"),
)
Maker = Callable[[Any, How], pd.DataFrame | None]


def tables_of(module: Any, rows: Rows, how: How) -> dict[str, pd.DataFrame]:
    """Every table of `module.TABLES`, one condition's rows below the other's; then those of `module.RUN_TABLES`.

    A maker that returns None has no such table. NothingToMeasure: a maker has raised it for every condition; it carries
    the tables that there are nonetheless.
    """
    conditions = list(rows.conditions())
    tables, nothing = _joined(getattr(module, "TABLES", {}), conditions, how)
    for name, (maker, own) in getattr(module, "RUN_TABLES", {}).items():
        table = maker(rows, how)
        if table is not None:
            tables[name] = in_order(table, own, name)
    if nothing:
        raise NothingToMeasure(nothing, tables)
    return tables


def of_condition(module: Any, material: Any, how: How, condition: str) -> dict[str, pd.DataFrame]:
    """The same of one condition's material, whatever that is (tables of finished runs)."""
    return _joined(module.TABLES, [(condition, material)], how)[0]


def _joined(
    makers: Mapping[str, tuple[Maker, Sequence[str]]], conditions: Iterable[tuple[str, Any]], how: How
) -> tuple[dict[str, pd.DataFrame], str]:
    """The tables, and why there is nothing to measure where some maker says so of every condition; else ""."""
    tables, nothing = {}, ""
    for name, (maker, own) in makers.items():
        parts, why = [], ""
        for condition, material in conditions:
            try:
                table = maker(material, how)
            except NothingToMeasure as error:
                why = why or str(error)
                continue
            if table is not None:
                parts.append(table.assign(condition=condition))
        if parts:
            tables[name] = in_order(pd.concat(parts, ignore_index=True), own, name)
        elif why:
            nothing = nothing or why
    return tables, nothing


def in_order(table: pd.DataFrame, own: Sequence[str], name: str) -> pd.DataFrame:
    """The shared columns first, then its own in their order, as far as the table has them; a shared column that is
    among its own has its place there.

    ValueError: a column that is neither (a bug of the analysis: TABLES does not say what the table holds).
    """
    unknown = [str(column) for column in table if column not in (*SHARED, *own)]
    if unknown:
        raise ValueError(f"table {name}: column {unknown[0]!r} is neither shared nor among its own ({', '.join(own)})")
    order = [*(column for column in SHARED if column not in own), *own]
    return table.loc[:, [column for column in order if column in table]]
