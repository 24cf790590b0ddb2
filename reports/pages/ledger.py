"""Since when a claim has its threshold: the ledger that the project keeps of all claims, with versions and dates."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

LEDGER = Path(__file__).parents[2] / "analyses" / "claims.csv"


@cache
def _entries() -> dict[tuple[str, str], dict[str, str]]:
    """(analysis, name) -> its line; nothing where there is no ledger."""
    if not LEDGER.is_file():
        return {}
    with LEDGER.open(encoding="utf-8", newline="") as file:
        return {(line["analysis"], line["name"]): line for line in csv.DictReader(file)}


def since(analysis: str, claim: Mapping[str, Any]) -> str:
    """ "threshold fixed on 2026-11-26, version 4"; that it is another one, where the run was judged by another text or
    threshold than the ledger has; "" where the ledger does not know the claim.
    """
    line = _entries().get((analysis, str(claim.get("name"))))
    if line is None:
        return ""
    threshold = claim.get("threshold")
    known = isinstance(threshold, (int, float)) and math.isclose(threshold, float(line["threshold"]), abs_tol=1e-12)
    if known and claim.get("text") == line["text"]:
        return f"threshold fixed on {line['date']}, version {line['version']}"
    return "judged by the text or threshold of another version"
