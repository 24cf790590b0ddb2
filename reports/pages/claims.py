"""All claims of a report: a claim is a row, a model is a column, and all numbers of a row stand on one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .blocks import places_of_claims
from .ledger import since
from .page import Drawn
from .runs import Run
from .verdicts import alone, axis, counts, domain, statement
from .words import environment

FEW = 8  # claims up to which all stand open


def claims(runs: Sequence[Run], drawn: Mapping[str, Drawn]) -> str:
    """The HTML of all claims by analysis. drawn: run name -> figures, to which claims link."""
    models = sorted({run.model for run in runs if run.claims})
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        places = places_of_claims(drawn[run.name][0])
        for claim in run.claims:
            of_analysis = rows.setdefault(str(run.record["analysis"]), {})
            at = places.get(str(claim.get("name")), "claims")
            of_analysis.setdefault(_identity(claim), []).append({**claim, "run": run, "at": at, "alone": alone(claim)})
    groups = [_group(name, list(found.values()), models) for name, found in sorted(rows.items())]
    every = [claim for found in rows.values() for entries in found.values() for claim in entries]
    return (
        environment()
        .get_template("claims.html")
        .render(groups=groups, models=models, counts=counts(every), every=len(every), opened=len(every) <= FEW)
    )


def _identity(claim: dict[str, Any]) -> str:
    """One claim on several models is one row: by its name and its text, since a text may change with a version."""
    return f"{claim.get('name') or ''}: {claim.get('text')}"


def _group(analysis: str, rows: list[list[dict[str, Any]]], models: list[str]) -> dict[str, Any]:
    title = rows[0][0]["run"].title
    made = [_row(entries, models) for entries in rows]
    return {"analysis": analysis, "title": title, "rows": made, "counts": counts(c for row in rows for c in row)}


def _row(entries: list[dict[str, Any]], models: list[str]) -> dict[str, Any]:
    ends = domain(entries)
    drawn = [{**entry, "axis": axis(entry, ends)} for entry in entries]
    cells = [[entry for entry in drawn if entry["run"].model == model] for model in models]
    first = entries[0]
    told = since(str(first["run"].record["analysis"]), first)
    return {"claim": first, "short": statement(str(first.get("text"))), "since": told, "cells": cells}
