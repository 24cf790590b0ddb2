"""A report with a page for every analysis, from planted tables: what is drawn, said and judged, without a model."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
from crosslens.analyses import find_analyses
from crosslens.analyses.common.thumbnails import png
from crosslens.probes.runs.judged import said_of
from PIL import Image

from ..analyses.planted_findings import CASES_OF
from . import synthetic

GRID = 2, 3  # rows and columns of the planted picture: no square
PICTURE = png(Image.new("RGB", (84, 84), "red"))


def tables_of(analysis: str) -> dict[str, pd.DataFrame]:
    """The tables of the first planted case of an analysis, its claims and findings among them."""
    tables = dict(next(iter(CASES_OF[analysis].values()))()[0])
    if "pictures" in tables:
        tables["pictures"] = tables["pictures"].assign(
            png=PICTURE, question="Which colour is the circle?", answer="red"
        )
    if analysis == "image_lens":
        tables["grid"] = _words(tables["grid"])
    conditions = [c for table in tables.values() if "condition" in table for c in table["condition"].unique()]
    return tables | said_of(import_module(find_analyses()[analysis]), tables, list(dict.fromkeys(conditions)))


def _words(grid: pd.DataFrame) -> pd.DataFrame:
    """Words of nine letters on every patch of an oblong picture, state by state."""
    first = grid.drop_duplicates(["example", "state"])
    parts = [first.assign(row=row, column=column, token=" handbag,") for row, column in np.ndindex(GRID)]
    return pd.concat(parts, ignore_index=True)


def write(out: Path, analyses: list[str] | None = None) -> Path:
    """Runs of these analyses (of all) under `out`/runs, and two of invented numbers of a model's real size."""
    for analysis in CASES_OF if analyses is None else analyses:
        place = synthetic.write_run(out / "runs", analysis, "planted", tables_of(analysis))
        record = json.loads((place / "record.json").read_text("utf-8"))
        record |= {"title": str(import_module(find_analyses()[analysis]).__doc__).splitlines()[0]}
        (place / "record.json").write_text(json.dumps(record), "utf-8")
    return synthetic.write_report(out)
