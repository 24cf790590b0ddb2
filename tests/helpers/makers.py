"""What the runner does with an analysis' makers, for tests that plant rows."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pandas as pd
from crosslens.analyses.circuits import overlap
from crosslens.probes.runs.results import How, Rows
from crosslens.probes.runs.tables import of_condition, tables_of


@dataclass(frozen=True)
class NoOptions:
    """None."""


def analysis(**parts: Any) -> Any:
    """A module with what every analysis has, and these parts."""
    said = {"VERSION": 1, "QUESTION": "", "PAPER": "", "Options": NoOptions, "methods": lambda *_: ""}
    return SimpleNamespace(**{"__doc__": "Made for a test.", "__name__": "made", **said, **parts})


def how_of(module: Any, options: Any = None, **learned: Any) -> How:
    """An analysis' options (the default ones where None) and what it is to have learned."""
    made = getattr(module, "Learned", None)
    return How(module.Options() if options is None else options, made(**learned) if made else None)


def tables_from(module: Any, rows: Rows, options: Any = None, **learned: Any) -> dict[str, pd.DataFrame]:
    """Every table of planted rows."""
    return tables_of(module, rows, how_of(module, options, **learned))


def tables_from_runs(
    runs: dict[str, dict[str, pd.DataFrame]], condition: str = "no BOS", module: Any = overlap
) -> dict[str, pd.DataFrame]:
    """Every table of `overlap` or of another that joins, of the runs' tables of one condition."""
    return of_condition(module, runs, How(module.Options()), condition)
