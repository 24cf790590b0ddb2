"""The claims and findings of two runs side by side: estimates, intervals and thresholds on one axis."""

from __future__ import annotations

import math
from typing import Any

from .runs import Run

WIDTH, EDGE = 150.0, 8.0  # px of a strip, and of its margins
FINDINGS = 6


def forest(a: Run, b: Run) -> list[dict[str, Any]]:
    """The claims that both runs judge, by name and condition: text, both sides, their difference, places on an axis."""
    second = {claim_name(claim): claim for claim in b.claims}
    return [_pair(claim, second[claim_name(claim)]) for claim in a.claims if claim_name(claim) in second]


def claim_name(claim: dict[str, Any]) -> tuple[str, str]:
    """What tells the claims of a run apart: name and condition."""
    return str(claim.get("name") or claim.get("text")), str(claim.get("condition") or "")


def _pair(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    sides = [_side(first), _side(second)]
    return {
        "text": first.get("text", ""),
        "source": first.get("source", ""),
        "condition": first.get("condition") or "",
        "sides": sides,
        "difference": _difference(sides),
        "axis": _axis(sides, _number(first, "threshold")) if _number(first, "value") is not None else None,
    }


def _side(claim: dict[str, Any]) -> dict[str, Any]:
    value, margin = _number(claim, "value"), _number(claim, "margin")
    control = None if value is None or margin is None else value - margin
    numbers = {name: _number(claim, name) for name in ("value", "lower", "upper")}
    return {**numbers, "control": control, "verdict": str(claim.get("verdict")), "numbers": claim.get("numbers", "")}


def _difference(sides: list[dict[str, Any]]) -> dict[str, float] | None:
    """Second − first with the interval of independent estimates (half-widths added in squares)."""
    first, second = sides
    if None in (first["value"], second["value"]):
        return None
    found = {"value": second["value"] - first["value"]}
    if None not in [side[end] for side in sides for end in ("lower", "upper")]:
        down = math.hypot(second["value"] - second["lower"], first["upper"] - first["value"])
        up = math.hypot(second["upper"] - second["value"], first["value"] - first["lower"])
        found |= {"lower": found["value"] - down, "upper": found["value"] + up}
    return found


def _axis(sides: list[dict[str, Any]], threshold: float | None) -> dict[str, Any]:
    """Places (px) of both estimates with their intervals, of controls and of the threshold, on one axis."""
    known = [side[name] for side in sides for name in ("value", "lower", "upper", "control")] + [threshold]
    ends = [value for value in known if value is not None]
    low, high = min(ends), max(ends)

    def place(value: float | None) -> float | None:
        if value is None:
            return None
        return round(EDGE + (WIDTH - 2 * EDGE) * ((value - low) / (high - low) if high > low else 0.5), 1)

    rows = [{name: place(side[name]) for name in ("value", "lower", "upper", "control")} for side in sides]
    return {"rows": rows, "threshold": place(threshold), "least": low, "greatest": high}


def _number(claim: dict[str, Any], name: str) -> float | None:
    """A finite number of a row, or None: runs made long ago lack columns."""
    value = claim.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def said(run: Run) -> list[dict[str, str]]:
    """The first findings of a run: text and state; the title of its analysis where it has none."""
    table = run.tables.get("findings")
    if table is None or table.empty or "text" not in table:
        return [{"text": run.title, "state": ""}]
    rows = table.head(FINDINGS).to_dict("records")
    return [{name: str(row.get(name) or "") for name in ("text", "state")} for row in rows]
