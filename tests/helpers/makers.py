"""What the runner does with an analysis' makers, for tests that plant rows."""

from __future__ import annotations

from typing import Any

import pandas as pd
from crosslens.probes.runs.results import How, Rows
from crosslens.probes.runs.tables import tables_of


def how_of(module: Any, options: Any = None, **learned: Any) -> How:
    """An analysis' options (the default ones where None) and what it is to have learned."""
    made = getattr(module, "Learned", None)
    return How(module.Options() if options is None else options, made(**learned) if made else None)


def tables_from(module: Any, rows: Rows, options: Any = None, **learned: Any) -> dict[str, pd.DataFrame]:
    """Every table of planted rows."""
    return tables_of(module, rows, how_of(module, options, **learned))
