"""Claims: one judge, one ledger, and for every claim one planted table in which it holds and one in which it fails.

`tests/claims/<analysis>.py` has `planted(name: str, holds: bool) -> dict[str, DataFrame]`: tables of one condition,
made by the analysis' own makers from planted rows, in which the claim of that name holds or fails. Every statement of
`CLAIMS` is asked for both.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from crosslens import analyses
from crosslens.analyses.common import claims, stats
from crosslens.analyses.common.claims import (
    CONTROL_TOO,
    FAILS,
    HOLDS,
    UNDECIDED,
    UNTESTABLE,
    Statement,
    corrected,
    judge,
)
from crosslens.analyses.common.tested import share_above

HOUSE = Path(str(analyses.__file__)).parent
LEDGER = HOUSE / "claims.csv"
SHOWN = ["analysis", "name", "text", "source", "threshold", "side", "paper"]
ABOVE = Statement("more", "More than half.", "nobody", 0.5)


def modules():
    """The analyses that state claims, by name."""
    found = {name: import_module(home) for name, home in analyses.find_analyses().items()}
    return {name: module for name, module in found.items() if hasattr(module, "CLAIMS")}


def row(value, lower, upper, n=40, n_groups=40, unit="nats"):
    return {"value": value, "lower": lower, "upper": upper, "n": n, "n_groups": n_groups, "unit": unit}


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (row(0.7, 0.6, 0.8), HOLDS),
        (row(0.3, 0.2, 0.4), FAILS),
        (row(0.6, 0.4, 0.8), UNDECIDED),
        (row(0.7, np.nan, np.nan, n_groups=4), UNDECIDED),
        (row(0.7, 0.7, 0.7), UNDECIDED),  # nothing varied
        (row(0.0, 0.0, 0.0), UNDECIDED),
        (row(2e-17, 1e-17, 3e-17), FAILS),  # small is not the same as nothing
        (row(1.0, 1.0, 1.0, unit="share"), HOLDS),  # 40 of 40 groups: at least .91
        (row(1.0, 1.0, 1.0, n_groups=5, unit="share"), UNDECIDED),  # 5 of 5: at least .48
        (row(0.0, 0.0, 0.0, unit="share"), FAILS),
        (None, UNTESTABLE),
    ],
)
def test_the_interval_decides(measured, expected):
    found = judge(ABOVE, measured)
    assert found.verdict == expected
    mirrored = judge(ABOVE._replace(side="below"), measured)
    assert mirrored.verdict == {HOLDS: FAILS, FAILS: HOLDS}.get(expected, expected)
    assert (found.p_value < 0.05) == (expected in (HOLDS, FAILS)), found


def test_an_edit_that_changed_nothing_is_undecided_with_what_n_can_show():
    found = judge(ABOVE._replace(threshold=0.0), row(0.0, 0.0, 0.0, n_groups=16, unit="points"))
    assert found.verdict == UNDECIDED
    assert "up to 21%" in found.numbers
    assert claims.unseen(16) == pytest.approx(1 - 0.025 ** (1 / 16))
    wide = judge(ABOVE, row(0.6, 0.4, 0.8))
    assert wide.detectable == pytest.approx(0.2)
    assert "0.2" in wide.numbers


def test_a_claim_that_its_control_meets_as_well_does_not_hold():
    strong = row(0.72, 0.64, 0.79)
    assert judge(ABOVE, strong, margin=row(0.2, 0.1, 0.3), control="random heads").verdict == HOLDS
    worse = judge(ABOVE, strong, margin=row(-0.07, -0.15, 0.01), control="another image")
    assert worse.verdict == CONTROL_TOO
    assert "another image -0.07" in worse.numbers
    assert judge(ABOVE, row(0.3, 0.2, 0.4), margin=row(-0.2, -0.3, -0.1)).verdict == FAILS
    unclear = judge(ABOVE, strong, margin=row(0.2, np.nan, np.nan, n_groups=3))
    assert unclear.verdict == CONTROL_TOO
    below = ABOVE._replace(side="below")
    assert judge(below, row(0.3, 0.2, 0.4), margin=row(-0.2, -0.3, -0.1)).verdict == HOLDS
    assert judge(below, row(0.3, 0.2, 0.4), margin=row(0.2, 0.1, 0.3)).verdict == CONTROL_TOO


def test_a_precondition_that_is_not_met_is_not_testable():
    found = judge(ABOVE, row(0.9, 0.8, 1.0), untestable="the task is at chance")
    assert (found.verdict, found.numbers) == (UNTESTABLE, "the task is at chance")
    assert np.isnan(corrected([found])[0].p_page)


def test_verdicts_are_corrected_for_their_number_within_a_page():
    """20 claims about nothing: alone one in 40 holds by luck, as many fail; on a page almost never one."""
    rng = np.random.default_rng(0)
    alone = pages = 0
    statement = ABOVE._replace(threshold=0.0)
    for _ in range(100):
        values = rng.normal(size=(12, 20))
        value, lower, upper = stats.group_bootstrap(values, np.arange(12))
        made = [judge(statement, row(*numbers, n_groups=12)) for numbers in zip(value, lower, upper, strict=True)]
        alone += sum(claim.verdict != UNDECIDED for claim in made)
        pages += any(claim.verdict != UNDECIDED for claim in corrected(made))
    assert 60 <= alone <= 140
    assert pages <= 9
    strong = judge(statement, row(5.0, 4.9, 5.1))
    weak = judge(statement, row(1.0, 0.01, 1.99))
    kept = corrected([strong, weak, *[judge(statement, row(0.1, -1, 1))] * 5])
    assert (kept[0].verdict, kept[1].verdict) == (HOLDS, UNDECIDED)
    assert "among this page's 7 claims" in kept[1].numbers


def test_p_is_05_where_the_bound_meets_the_threshold():
    values = np.random.default_rng(1).normal(0.4, 1, size=(14, 1))
    value, lower, upper = (float(x[0]) for x in stats.group_bootstrap(values, np.arange(14)))
    found = judge(ABOVE._replace(threshold=lower), row(value, lower, upper, n_groups=14))
    assert found.p_value == pytest.approx(0.05)


def test_one_row_is_one_row():
    table = pd.DataFrame({"stage": ["a", "b", "b"], "value": [1, 2, 3]})
    assert claims.one_row(table, stage="a")["value"] == 1
    assert claims.one_row(table, stage="c") is None
    assert claims.one_row(None) is None
    with pytest.raises(ValueError, match="2 rows"):
        claims.one_row(table, stage="b")


# ---------------------------------------------------------------- the ledger, and planted tables


def stated():
    rows = [(name, *statement) for name, module in modules().items() for statement in module.CLAIMS]
    return pd.DataFrame(rows, columns=SHOWN)


def test_the_ledger_says_what_the_code_says():
    """A text or threshold that changes goes into claims.csv with the analysis' new VERSION and the day."""
    ledger, code = pd.read_csv(LEDGER, keep_default_na=False, na_values={"paper": ""}), stated()
    pd.testing.assert_frame_equal(
        ledger[SHOWN].sort_values(SHOWN[:2]).reset_index(drop=True),
        code.sort_values(SHOWN[:2]).reset_index(drop=True),
        check_dtype=False,
    )
    assert not code.duplicated(SHOWN[:2]).any()
    versions = {name: module.VERSION for name, module in modules().items()}
    assert (ledger["version"] <= ledger["analysis"].map(versions)).all()
    assert pd.to_datetime(ledger["date"], format="%Y-%m-%d").notna().all()


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize(("analysis", "name"), list(stated()[SHOWN[:2]].itertuples(index=False, name=None)))
def test_every_claim_holds_where_it_is_planted_and_fails_where_its_opposite_is(analysis, name, holds):
    tables = import_module(f".claims.{analysis}", __package__).planted(name, holds)
    made = [claim for claim in modules()[analysis].claims(tables) if claim.name == name]
    assert [claim.verdict for claim in made] == [HOLDS if holds else FAILS], made
    for claim in made:  # each names its control and says its value, where it has one
        assert bool(claim.control_name) != np.isnan(claim.margin)
        assert np.isnan(claim.margin) or claim.control == pytest.approx(claim.value - claim.margin)


@pytest.mark.parametrize(("groups", "verdict"), [(14, HOLDS), (5, UNDECIDED)])
def test_all_right_is_above_guessing_where_so_many_groups_say_so(groups, verdict):
    names = pd.Series([f"g{i % groups}" for i in range(2 * groups)])
    row = share_above("solved", np.ones(len(names)), np.full(len(names), 0.5), names)
    claim = judge(ABOVE._replace(threshold=0.0), row.iloc[0])
    assert claim.verdict == verdict
    assert claim.lower == pytest.approx(0.5 - (1 - 0.025 ** (1 / groups)))
