"""What the scenes subject has to be for other pages to mean something: the bars, their numbers, their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import Rows
from ..common import stats
from ..common.claims import Claim, Statement, judge, one_row, unseen
from ..common.frames import summarise

BASIC = ("colour", "shape", "existence", "coloured_existence", "count")
RELATIONS = ("left_right", "above_below")
OURS, POPE = "this project's bar", "arXiv 2305.10355"
STATEMENTS = (
    Statement("basic 90", "On clear scenes every basic kind of question is answered right in over 90 %.", OURS, 0.9),
    Statement("basic 95", "On clear scenes every basic kind of question is answered right in over 95 %.", OURS, 0.95),
    Statement("relations", "On clear scenes either relation is answered right in over 90 %.", OURS, 0.9),
    Statement(
        "swapped",
        "With another scene's image the model is less than 5 points better than the best constant answer to each "
        "wording, chosen on the other half of the scenes.",
        OURS,
        0.05,
        "below",
    ),
    Statement("pope", "On hard scenes POPE's adversarial set is harder than the random one: its F1 is lower.", POPE),
    Statement(
        "object set", "Captions of clear scenes name exactly the objects that are there in over 80 %.", OURS, 0.8
    ),
    Statement(
        "CHAIR clear", "Captions of clear scenes name hardly anything absent: CHAIR_I < 5 %.", OURS, 0.05, "below"
    ),
    Statement("CHAIR hard", "Captions of hard scenes make things up: CHAIR_I above 5 %.", OURS, 0.05),
    Statement(
        "CHAIR bound", "Captions of hard scenes stay with what is there: CHAIR_I below 30 %.", OURS, 0.3, "below"
    ),
    Statement("IOI", "SmolLM2's IOI top-1 is kept: it falls by less than 3 points.", OURS, -0.03),
    Statement("NLL", "SmolLM2's loss on passages is kept: it grows by less than 3 %.", OURS, 0.03, "below"),
)


def make_claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """Every statement against its row of `bars`; not testable where the run did not ask for it."""
    bars = tables.get("bars")
    seen = one_row(bars, claim="seen")
    blind = seen is not None and not seen["lower"] > 0
    unseen_image = {"swapped": "with its own image the model is no better than that constant either"} if blind else {}
    return [
        judge(statement, one_row(bars, claim=statement.name), untestable=unseen_image.get(statement.name, ""))
        for statement in STATEMENTS
    ]


def bars(rows: Rows, tables: Mapping[str, pd.DataFrame], constant: np.ndarray) -> pd.DataFrame:
    """claim value lower upper n n_groups unit: the number that each claim is about, as far as it was measured; and
    "seen", how much better than the best constant the model is with the true images, where others were shown too.

    rows: of one condition; tables: accuracy, captions, text of these rows; constant: whether the best constant answer
    is right, [n].
    """
    found = pd.DataFrame([{**dict(row), "claim": name} for name, row in _numbers(rows, tables, constant)])
    columns = ["claim", "value", "lower", "upper", "n", "n_groups", "unit"]
    return found.reindex(columns=columns)


def _numbers(
    rows: Rows, tables: Mapping[str, pd.DataFrame], constant: np.ndarray
) -> Iterator[tuple[str, Mapping[str, Any] | pd.Series]]:
    accuracy = tables["accuracy"]
    clear = accuracy[(accuracy["difficulty"] == "clear") & (accuracy["control"] == "")]
    for name, kinds in (("basic 90", BASIC), ("basic 95", BASIC), ("relations", RELATIONS)):
        asked = clear[clear["kind"].isin(kinds)]
        if len(asked):
            yield name, _worst(asked)
    swapped = rows["right|swapped"] - constant
    if np.isfinite(swapped).any():
        real = np.where(np.isnan(swapped), np.nan, rows["right|real"] - constant)
        for name, margin in (("swapped", swapped), ("seen", real)):
            yield name, summarise(margin, rows.examples["group"], {}, "share").iloc[0]
    harder = _harder(rows)
    if harder is not None:
        yield "pope", harder
    for name, level, measure in (
        ("object set", "clear", "object set"),
        ("CHAIR clear", "clear", "CHAIR_I"),
        ("CHAIR hard", "hard", "CHAIR_I"),
        ("CHAIR bound", "hard", "CHAIR_I"),
    ):
        row = one_row(tables.get("captions"), difficulty=level, measure=measure)
        if row is not None:
            yield name, row
    for name, source, measure in (("IOI", "ioi", "top-1"), ("NLL", "passages", "NLL")):
        row = one_row(tables.get("text"), source=source, measure=measure, norms="change")
        if row is not None:
            yield name, row


def _worst(rows: pd.DataFrame) -> dict[str, Any]:
    """Of several shares the smallest value and bounds: above a threshold where all are, below where one of them is."""
    exact = rows["n_groups"].map(unseen)
    still = rows["upper"] - rows["lower"] <= 1e-12
    lower = rows["lower"].where(~(still & (rows["value"] == 1)), 1 - exact)
    upper = rows["upper"].where(~(still & (rows["value"] == 0)), exact)
    bounds = {"lower": lower.min(skipna=False), "upper": upper.min(skipna=False)}
    return {
        "value": rows["value"].min(),
        **bounds,
        "n": rows["n"].min(),
        "n_groups": rows["n_groups"].min(),
        "unit": "share",
    }


def _harder(rows: Rows) -> dict[str, Any] | None:
    """F1 of POPE's random minus its adversarial set on hard scenes; None where one of them was not asked."""
    examples, yes = rows.examples, rows["yes"] == 1
    hard, there = (examples["difficulty"] == "hard").to_numpy(), (examples["answer"] == "yes").to_numpy()
    sets = [hard & (examples["kind"] == f"pope_{name}").to_numpy() for name in ("random", "adversarial")]
    if not all(chosen.any() for chosen in sets):
        return None
    of_sets = sets[0] | sets[1]
    groups = examples["group"].to_numpy()[of_sets]
    easy, difficult = (((2.0 * (there & yes) * s)[of_sets], ((1.0 * there + yes) * s)[of_sets]) for s in sets)
    found = stats.ratio_difference(easy, difficult, groups)
    bounds = {name: float(getattr(found, name)) for name in ("value", "lower", "upper")}
    return bounds | {"n": len(groups), "n_groups": len(np.unique(groups)), "unit": "F1"}
