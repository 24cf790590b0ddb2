"""A paper's statement as a test on one row of an analysis' own tables.

An analysis lists its statements in `CLAIMS`, before any number is seen; `analyses/claims.csv` keeps their texts and
thresholds with version and date. Its `tables` compute for each the row that it is about, its `claims` hand that row to
`judge`, the only judge; `corrected` then looks at all claims of a page together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as distributions

from .resampling import MIN_GROUPS

HOLDS, CONTROL_TOO, FAILS = "holds", "holds, and so does the control", "fails"
UNDECIDED, UNTESTABLE = "undecidable here", "not testable"
LEVEL = 0.95
Row = Mapping[str, Any] | pd.Series


class Statement(NamedTuple):
    """What is claimed of one number: name (unique in its analysis), the sentence with its threshold in words, the
    source (a paper, or "this project's bar"), and on which side of the threshold the number has to lie.

    paper: the number that the source reports, in the row's unit and on its own models; None where it gives none.
    """

    name: str
    text: str
    source: str
    threshold: float = 0.0
    side: Literal["above", "below"] = "above"
    paper: float | None = None


class Claim(NamedTuple):
    """A statement judged. numbers: the evidence in words. p_value: of this number against the threshold (and of the
    margin over its control, the larger of the two); p_page: Holm's, among all claims of the page.

    detectable: half the interval's width, the smallest distance from the threshold that n can show. control_name: what
    the number is held against, "" without a control; control: its value, value − margin. paper: the paper's number.
    """

    text: str
    source: str
    numbers: str
    verdict: str
    name: str = ""
    value: float = np.nan
    lower: float = np.nan
    upper: float = np.nan
    unit: str = ""
    n: float = np.nan
    n_groups: float = np.nan
    threshold: float = 0.0
    side: str = "above"
    margin: float = np.nan
    detectable: float = np.nan
    p_value: float = np.nan
    p_page: float = np.nan
    control_name: str = ""
    control: float = np.nan
    paper: float = np.nan

    @staticmethod
    def corrected(claims: Sequence[Claim]) -> list[Claim]:
        """All claims of one page, in order; whoever runs an analysis asks this before they are kept."""
        return corrected(claims)


def judge(
    statement: Statement,
    row: Row | None,
    *,
    margin: Row | None = None,
    control: str = "",
    untestable: str = "",
    p_value: float | None = None,
    note: str = "",
) -> Claim:
    """The verdict of one row (value, lower, upper, unit, n, n_groups; as `frames.summarise` makes them).

    holds / fails: the interval lies wholly on the stated / on the other side of the threshold. margin: the row of the
    paired difference measured − control, named by `control`; where it is not wholly on the stated side of 0, what
    would hold becomes "holds, and so does the control". undecidable here: neither, or an interval without width
    (nothing varied: an edit that changed no answer shows no effect and excludes none), or below 5 groups.
    not testable: `row` is None or `untestable` says which condition is not met (the task is at chance, not run).
    p_value: a test of the row's own instead of the interval (an exact null); it may decide "holds" alone.
    note: words put before the numbers.
    """
    if row is None or untestable:
        reason = untestable or "not measured here"
        return Claim(*_said(statement), _sentence(note, reason), UNTESTABLE, **_target(statement))
    value, lower, upper = bounds(row)
    passes, misses = _sides(statement, lower, upper)
    p = _p(value, lower, upper, statement.threshold, row["n_groups"]) if p_value is None else p_value
    if p_value is not None:
        passes = p_value <= 1 - LEVEL
    verdict = HOLDS if passes else FAILS if misses else UNDECIDED
    if verdict == HOLDS and margin is not None:
        ahead = bounds(margin)
        verdict = HOLDS if _sides(statement._replace(threshold=0.0), *ahead[1:])[0] else CONTROL_TOO
        p = max(p, _p(*ahead, 0.0, margin["n_groups"])) if verdict == HOLDS else p
    numbers = _sentence(note, _evidence(row, value, lower, upper), _against(margin, control), _doubt(row, verdict))
    return Claim(
        *_said(statement),
        numbers,
        verdict,
        statement.name,
        *(float(value), float(lower), float(upper), str(row.get("unit", "")), row["n"], row["n_groups"]),
        threshold=float(statement.threshold),
        side=statement.side,
        **_control(value, margin, control),
        detectable=float(max(upper - value, value - lower)),
        p_value=float(p),
        paper=_paper(statement),
    )


def corrected(claims: Sequence[Claim]) -> list[Claim]:
    """The claims of a page with p_page, Holm's p over all that could be tested; a verdict that stands alone but not
    among them (p_page above .05) becomes "undecidable here", and says so.
    """
    p = np.array([claim.p_value for claim in claims], float)
    pages = _holm(p)
    return [_among(claim, page, int((~np.isnan(p)).sum())) for claim, page in zip(claims, pages, strict=True)]


def _among(claim: Claim, p_page: float, count: int) -> Claim:
    claim = claim._replace(p_page=float(p_page))
    if claim.verdict not in (HOLDS, FAILS, CONTROL_TOO) or not p_page > 1 - LEVEL:
        return claim
    said = f"{claim.verdict} alone (p = {claim.p_value:.2g}), not among this page's {count} claims ({p_page:.2g})"
    return claim._replace(verdict=UNDECIDED, numbers=_sentence(claim.numbers, said))


def _holm(p: np.ndarray) -> np.ndarray:
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps) if len(order) else steps, 1.0)
    return adjusted


# ---------------------------------------------------------------- the row


def bounds(row: Row) -> tuple[float, float, float]:
    """value, lower, upper; NaN bounds where nothing varied, but for shares of 0 or 1, whose exact bound groups give."""
    value, lower, upper = (float(row[name]) for name in ("value", "lower", "upper"))
    if not upper - lower <= 1e-12 * abs(value):
        return value, lower, upper
    if row.get("unit") == "share" and value in (0.0, 1.0) and row["n_groups"] >= MIN_GROUPS:
        slack = unseen(row["n_groups"])
        return (value, 0.0, slack) if value == 0 else (value, 1 - slack, 1.0)
    return value, np.nan, np.nan


def unseen(n_groups: float) -> float:
    """The largest share of groups that may differ though none of `n_groups` did (exact, two-sided 95 %)."""
    return 1 - ((1 - LEVEL) / 2) ** (1 / n_groups)


def _sides(statement: Statement, lower: float, upper: float) -> tuple[bool, bool]:
    """Whether the interval lies wholly on the stated side, and wholly on the other."""
    above, below = bool(lower > statement.threshold), bool(upper < statement.threshold)
    return (above, below) if statement.side == "above" else (below, above)


def _p(value: float, lower: float, upper: float, threshold: float, n_groups: float) -> float:
    """Two-sided p of the threshold, of an interval read as Student's; .05 where a bound meets the threshold."""
    width = value - lower if value > threshold else upper - value
    if np.isnan(width):
        return np.nan
    degrees = max(n_groups - 1, 1)
    quantile = distributions.t.ppf((1 + LEVEL) / 2, degrees)
    return float(2 * distributions.t.sf(quantile * abs(value - threshold) / width, degrees)) if width > 0 else 0.0


# ---------------------------------------------------------------- words


def _said(statement: Statement) -> tuple[str, str]:
    return statement.text, statement.source


def _target(statement: Statement) -> dict[str, Any]:
    of = {"threshold": float(statement.threshold), "side": statement.side, "paper": _paper(statement)}
    return {"name": statement.name} | of


def _paper(statement: Statement) -> float:
    return np.nan if statement.paper is None else float(statement.paper)


def _control(value: float, margin: Row | None, control: str) -> dict[str, Any]:
    if margin is None:
        return {}
    ahead = float(margin["value"])
    return {"margin": ahead, "control_name": control or "the control", "control": value - ahead}


def _sentence(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _evidence(row: Row, value: float, lower: float, upper: float) -> str:
    span = "" if np.isnan(lower) else f" [{lower:.3g}, {upper:.3g}]"
    unit = f" {row['unit']}" if row.get("unit") else ""
    return f"{value:.3g}{span}{unit}, n = {row['n']:.0f} in {row['n_groups']:.0f} groups"


def _against(margin: Row | None, control: str) -> str:
    if margin is None:
        return ""
    span = "" if np.isnan(margin["lower"]) else f" [{margin['lower']:.3g}, {margin['upper']:.3g}]"
    return f"against {control or 'the control'} {margin['value']:+.3g}{span}"


def _doubt(row: Row, verdict: str) -> str:
    """Why nothing is decided, and what n could have shown."""
    if verdict != UNDECIDED:
        return ""
    value, lower, upper = (float(row[name]) for name in ("value", "lower", "upper"))
    if row["n_groups"] < MIN_GROUPS:
        return f"no interval below {MIN_GROUPS} groups"
    if np.isnan(lower) or np.isnan(upper):
        return "no interval"
    if upper - lower <= 1e-12 * abs(value):
        return f"nothing varied: up to {unseen(row['n_groups']):.0%} of groups may differ unseen"
    return f"the smallest distance that n shows is {max(upper - value, value - lower):.2g}"


def unsolved(row: Row | None) -> str:
    """Why a task counts as not solved, by the row of accuracy − guessing; "" where it is solved.

    Where guessing is always right (a task without wrong answers) nothing can be said against it.
    """
    if row is None or (row["value"] == row["lower"] == row["upper"] == 0):
        return ""
    if row["lower"] > 0:
        return ""
    return f"the task is at chance: accuracy − guessing {interval(row)}, n = {row['n']:.0f}"


def interval(row: Row) -> str:
    """ "0.99 [0.98, 1.00]": a row of a table as evidence, by its value, lower and upper."""
    return f"{row['value']:.2f} [{row['lower']:.2f}, {row['upper']:.2f}]"


def one_row(table: pd.DataFrame | None, **where: Any) -> pd.Series | None:
    """The one row of a table with these values in these columns; None where there is none (or no table).

    Errors: ValueError for several: a claim is about one number.
    """
    if table is None or table.empty:
        return None
    chosen = table[np.logical_and.reduce([table[column] == value for column, value in where.items()] or [[True]])]
    if len(chosen) > 1:
        raise ValueError(f"{len(chosen)} rows with {where}: a claim is about one")
    return chosen.iloc[0] if len(chosen) else None
