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
    share = _share(proofs)
    worst = proofs.loc[share.groupby(proofs["check"], sort=False).idxmax()].set_index("check")
    groups = proofs.groupby("check", sort=False)["passed"]
    worst = worst.assign(places=groups.size(), passed=groups.all())
    return worst.reset_index()[["check", "places", "passed", "value", "limit", "where"]]


def by_layer(proofs: pd.DataFrame) -> pd.DataFrame:
    """One row per layer, of the decoder or the vision tower: the proof that came closest to failing there.

    layer, check, value, limit, share (of the limit that was used up; above 1 where it failed), where.
    """
    proofs = proofs[proofs["where"].str.match(r"layer \d+") & (proofs["value"] != proofs["limit"])]
    proofs = proofs.assign(layer=proofs["where"].str.extract(r"layer (\d+)", expand=False).astype(int))
    proofs["tower"], proofs["share"] = proofs["where"].str.endswith("in the vision tower"), _share(proofs)
    worst = proofs.groupby(["tower", "layer"])["share"].idxmax()
    return proofs.loc[worst, ["layer", "check", "value", "limit", "share", "where"]].reset_index(drop=True)


def _share(proofs: pd.DataFrame) -> pd.Series:
    """How much of its limit each proof used up; edits have to exceed theirs. Infinite where there is no number."""
    share = (proofs["value"] / proofs["limit"]).where(proofs["limit"] > 0, 0.0).fillna(float("inf"))
    return share.where((share <= 1) | ~proofs["passed"].astype(bool), 1 / share)


def check_page(proofs: pd.DataFrame, path: Path, title: str, note: str) -> Path:
    """Write the page of one subject's proofs to `path`; returns it. ReportError where it cannot be written."""
    short = summary(proofs)
    layers = by_layer(proofs)
    whole = {"layers": layers, "places": proofs}
    blocks = [page.table_block("proofs", short)]
    blocks += [page.table_block(name, table, limit=len(table)) for name, table in whole.items()]
    text = page.environment().get_template("check.html").render(title=title, note=note, tables=blocks)
    write_file(Path(path), text.encode())
    return Path(path)
