"""Table "tested": the numbers that an analysis' claims are about, each with its margin over a control.

claim: the statement's name. than: "" for the number itself, else the control that it is compared with, example by
example. untestable: why nothing can be said here, or "".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .claims import Claim, Statement, judge, one_row, unseen
from .frames import summarise
from .stats import MIN_GROUPS


def number(
    claim: str,
    values: ArrayLike,
    groups: ArrayLike,
    unit: str,
    *,
    denominators: ArrayLike | None = None,
    than: str = "",
    untestable: str = "",
) -> pd.DataFrame:
    """One row: the mean of values [n], or Σ values / Σ denominators, with its interval by groups."""
    names: dict[str, Any] = {"claim": claim, "than": than, "untestable": untestable}
    return summarise(values, groups, {}, unit, denominators=denominators, **names)


def share_above(claim: str, right: ArrayLike, chance: ArrayLike, groups: pd.Series) -> pd.DataFrame:
    """One row: the share of right answers minus what guessing gives. Where all are right, or none is, the interval is
    the exact one of so many equal groups.
    """
    right, chance = np.asarray(right, float), np.asarray(chance, float)
    row = number(claim, right - chance, groups, "share above guessing")
    return exact(row, bool(right[0])) if np.ptp(right) == 0 else row


def exact(row: pd.DataFrame, everything: bool) -> pd.DataFrame:
    """The row of a share that is everything in all groups, or nothing, with the exact interval of so many equal groups;
    unchanged where these are too few for one.
    """
    count, value = float(row["n_groups"].iloc[0]), float(row["value"].iloc[0])
    if count < MIN_GROUPS:
        return row
    slack = unseen(count)
    lower, upper = (value - slack, value) if everything else (value, value + slack)
    return row.assign(lower=lower, upper=upper)


def nothing(claim: str, untestable: str) -> pd.DataFrame:
    """The row of a number that does not exist here."""
    names = {"claim": claim, "than": "", "untestable": untestable, "unit": "", "n": 0, "n_groups": 0}
    return pd.DataFrame([names | dict.fromkeys(("value", "lower", "upper"), np.nan)])


def judged(tested: pd.DataFrame | None, statements: Sequence[Statement]) -> list[Claim]:
    """Each statement's verdict, of tables of one condition; of several controls the one that comes nearest counts."""
    return [_judged(tested, statement) for statement in statements]


def _judged(tested: pd.DataFrame | None, statement: Statement) -> Claim:
    row = one_row(tested, claim=statement.name, than="")
    if row is None or tested is None:
        return judge(statement, None)
    margins = tested[(tested["claim"] == statement.name) & (tested["than"] != "")]
    reason = row["untestable"]
    if margins.empty or reason:
        return judge(statement, row, untestable=reason)
    if margins["value"].isna().any():
        missing = margins[margins["value"].isna()].iloc[0]["than"]
        return judge(statement, row, untestable=f"no control: there are no {missing}")
    ahead = margins["lower"] if statement.side == "above" else -margins["upper"]
    nearest = margins.iloc[int(ahead.fillna(-np.inf).to_numpy().argmin())]
    return judge(statement, row, margin=nearest, control=nearest["than"])
