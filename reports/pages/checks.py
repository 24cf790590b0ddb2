"""The page of a checked subject: every proof, how far it was from failing, and where it was closest."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import page
from .build import write_file


def summary(proofs: pd.DataFrame) -> pd.DataFrame:
    """One row per proof: check, places (how many), passed, and value, limit and place where it was closest to failing.

    proofs: check, where, value, limit, passed, one row for each place.
    """
    share = (proofs["value"] / proofs["limit"]).where(proofs["limit"] > 0, 0.0)
    # Edits have to exceed their limit: there the smallest value is the closest.
    share = share.where(share <= 1, 1 / share)
    worst = proofs.loc[share.groupby(proofs["check"], sort=False).idxmax()].set_index("check")
    groups = proofs.groupby("check", sort=False)["passed"]
    worst = worst.assign(places=groups.size(), passed=groups.all())
    return worst.reset_index()[["check", "places", "passed", "value", "limit", "where"]]


def check_page(proofs: pd.DataFrame, path: Path, title: str, note: str) -> Path:
    """Write the page of one subject's proofs to `path`; returns it. ReportError where it cannot be written."""
    short = summary(proofs)
    blocks = [page.table_block("proofs", short), page.table_block("places", proofs, limit=len(proofs))]
    text = page.environment().get_template("check.html").render(title=title, note=note, tables=blocks)
    write_file(Path(path), text.encode())
    return Path(path)
