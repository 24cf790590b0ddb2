"""Findings: one builder, and for every analysis planted rows in which its sentence is found, open, and not testable."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
from crosslens import analyses
from crosslens.analyses.common import findings as common
from crosslens.analyses.common.findings import FOUND, OPEN, UNTESTABLE, say
from crosslens.probes.runs.judged import found

from ..helpers.makers import tables_from
from . import planted_findings
from .test_claims import row

STATES = {FOUND, OPEN, UNTESTABLE}
SAID: dict[str, Any] = {"about": "heads", "figure": "effects"}
A, B = "It is {value:.2f} {span:.2f}.", "Not told: {value:.2f}."


def module(name: str) -> Any:
    return import_module(analyses.find_analyses()[name])


# ---------------------------------------------------------------- the builder


@pytest.mark.parametrize(
    ("measured", "asked", "state"),
    [
        (row(0.5, 0.4, 0.6), {}, FOUND),
        (row(-0.5, -0.6, -0.4), {}, FOUND),
        (row(-0.5, -0.6, -0.4), {"side": "above"}, OPEN),
        (row(0.1, -0.1, 0.3), {}, OPEN),
        (row(0.5, 0.4, 0.6), {"threshold": 0.45}, OPEN),
        (row(0.5, 0.4, 0.6), {"margin": row(0.4, 0.3, 0.5)}, FOUND),
        (row(0.5, 0.4, 0.6), {"margin": row(0.1, -0.1, 0.3)}, OPEN),  # so does the control
        (row(0.5, 0.4, 0.6), {"margin": row(-0.3, -0.4, -0.2)}, OPEN),  # the control does more
        (row(0.5, 0.4, 0.6), {"margin": row(np.nan, np.nan, np.nan)}, UNTESTABLE),  # no control was drawn
        (row(0.5, 0.4, 0.6), {"p_value": 0.2}, OPEN),
        (row(0.5, 0.4, 0.6), {"untestable": "the task is at chance"}, UNTESTABLE),
        (row(0.5, 0.5, 0.5), {}, OPEN),  # nothing varied
        (row(0.5, np.nan, np.nan, n_groups=4), {}, OPEN),
        (row(1.0, 1.0, 1.0, unit="share"), {"threshold": 0.5}, FOUND),
        (row(np.nan, np.nan, np.nan), {}, UNTESTABLE),
        (None, {}, UNTESTABLE),
    ],
)
def test_the_interval_and_the_control_decide(measured, asked, state):
    made = say(A, B, measured, **SAID, control="random heads" if "margin" in asked else "", **asked)
    assert made.state == state, made
    assert made.text.startswith(
        {FOUND: "It is ", OPEN: "Not told: ", UNTESTABLE: "Nothing can be said of heads"}[state]
    )
    assert bool(made.reason) == (state == UNTESTABLE)
    assert made.rank <= common.SURE or np.isnan(made.rank)


def test_the_most_striking_of_many_has_to_stand_out_among_them():
    one = row(0.5, 0.1, 0.9)
    assert [say(A, B, one, **SAID, among=count).state for count in (1, 300)] == [FOUND, OPEN]
    lower = [common.widened(one, count)[1] for count in (1, 2, 300)]
    assert lower[0] == pytest.approx(0.1)
    assert lower == sorted(lower, reverse=True)


def test_a_winner_of_noise_is_hardly_ever_found():
    """The largest of 50 cells of nothing, 200 times: alone most intervals leave out 0, among 50 few do."""
    rng, wrong = np.random.default_rng(0), np.zeros(2)
    for _ in range(200):
        cells = rng.normal(size=(20, 50))
        best = cells[:, np.abs(cells.mean(0)).argmax()]
        half = 2.093 * best.std(ddof=1) / np.sqrt(20)
        measured = row(best.mean(), best.mean() - half, best.mean() + half, n=20, n_groups=20)
        wrong += [say(A, B, measured, **SAID, among=count).state == FOUND for count in (1, 50)]
    assert wrong[0] > 150
    assert wrong[1] < 20


def test_a_difference_without_its_own_row_is_never_too_narrow():
    rng = np.random.default_rng(1)
    for sign in (1, -1):
        a = rng.normal(size=(40,))
        b = 0.9 * sign * a + 0.1 * rng.normal(size=40)
        spread = [1.96 * x.std(ddof=1) / np.sqrt(40) for x in (a, b, a - b)]
        rows = [row(x.mean(), x.mean() - s, x.mean() + s) for x, s in zip((a, b, a - b), spread, strict=True)]
        made = common.minus(rows[0], rows[1])
        assert made["value"] == pytest.approx(rows[2]["value"])
        assert made["lower"] <= rows[2]["lower"] <= rows[2]["upper"] <= made["upper"]


def test_words_of_a_task_are_words_and_numbers_write_themselves():
    made = say(
        "{part}: {value:+.1%} {span:.0%}, {control} {beside:.0f}",
        B,
        row(-0.5, -0.6, -0.4),
        **SAID,
        margin=row(-0.5, -0.6, -0.4),
        control="{0}",
        part="{value.__class__}",
    )
    assert made.text == "{value.__class__}: −50.0 % [−60 %, −40 %], {0} 0."
    assert say("{value:.2f} {span:.2f}", "{value:.2f} {span:.2f}", row(-1e-9, np.nan, np.nan), **SAID).text == (
        "0.00 [no interval]."
    )


def test_the_table_has_what_is_found_first_and_the_strongest_of_it():
    asked = [
        say(A, B, None, **SAID),
        say(A, B, row(0.1, -0.1, 0.3), **SAID),
        say(A, B, row(0.5, 0.4, 0.6), **SAID),
        say(A, B, row(0.5, 0.1, 0.9), **SAID),
    ]
    made = type("made", (), {"findings": staticmethod(lambda tables: asked)})
    table = found(made, {"x": pd.DataFrame({"condition": ["BOS", "no BOS"]})}, ["BOS", "no BOS"])  # pyright: ignore
    assert table["state"].tolist() == [FOUND] * 4 + [OPEN] * 2 + [UNTESTABLE] * 2
    assert table["lower"].tolist()[:4] == [0.4, 0.4, 0.1, 0.1]
    assert table["condition"].tolist()[:2] == ["BOS", "no BOS"]
    none = type("made", (), {"findings": staticmethod(lambda tables: [])})
    assert found(none, {}, ["BOS"]).empty  # pyright: ignore


# ---------------------------------------------------------------- every analysis


@pytest.mark.parametrize(("analysis", "case"), planted_findings.CASES)
def test_a_sentence_is_found_open_or_not_testable_as_it_was_planted(analysis, case):
    tables, begins, state = planted_findings.CASES_OF[analysis][case]()
    made = [finding for finding in module(analysis).findings(tables) if begins in finding.text]
    assert [finding.state for finding in made] == [state], [*map(str, module(analysis).findings(tables))]


@pytest.mark.parametrize("analysis", planted_findings.CASES_OF)
def test_every_case_of_every_analysis_is_whole(analysis):
    """Texts are filled in, figures exist, nothing is said of a control that is not named."""
    for case, made in planted_findings.CASES_OF[analysis].items():
        tables, *_ = made()
        figures = import_module(f"crosslens.reports.figures.{analysis}").figures(tables)
        for finding in module(analysis).findings(tables):
            assert finding.state in STATES
            assert not set("{}") & set(finding.text), finding
            assert "nan" not in finding.text, finding
            assert finding.text.endswith("."), finding
            assert finding.figure in figures, (case, finding.figure, list(figures))
            assert np.isnan(finding.margin) or finding.control, finding
            if finding.state != UNTESTABLE and finding.control and not np.isnan(finding.margin):
                assert finding.control in finding.text or analysis in ("overlap", "repairs"), finding


def test_every_analysis_has_findings_and_a_case_of_every_state():
    assert set(planted_findings.CASES_OF) == set(analyses.find_analyses())
    for analysis, cases in planted_findings.CASES_OF.items():
        assert {made()[2] for made in cases.values()} >= {FOUND, OPEN}, analysis
        assert hasattr(module(analysis), "findings")


@pytest.mark.parametrize("analysis", ["circuits", "edges", "faithfulness", "logit_attribution", "steering"])
def test_one_group_gives_findings_too(analysis):
    """No half to choose on, no interval: nothing is found and nothing breaks."""
    rows = import_module(f".claims.{analysis}", __package__).rows()
    rows.examples["group"] = "g"
    options = planted_findings.OPTIONS.get(analysis)
    made = module(analysis).findings(tables_from(module(analysis), rows, options, **planted_findings.learned(analysis)))
    assert not [finding for finding in made if finding.state == FOUND]
