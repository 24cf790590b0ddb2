"""Three or more models on one page: which runs make a series, in which order, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest
from crosslens import cli
from crosslens.data.errors import ReportError
from crosslens.reports.charts.style import traces_of
from crosslens.reports.pages import series
from crosslens.reports.pages.build import build, compare_page
from crosslens.reports.pages.runs import read_run
from crosslens.reports.pages.series_figures import figures, measures

from ..helpers.head_runs import ATTENTION, EFFECT, LAYERS, circuit_tables, write

STEPS = (1000, 200, 30)


def checkpoints(out, steps=STEPS, **record):
    """Runs of checkpoints of one training, whose effects grow with the step."""
    made = []
    for count, step in enumerate(steps):
        subject = {"name": f"step-{step}", "fingerprint": f"{step:08x}", "revision": None}
        tables = circuit_tables(step / 100, seed=0)
        made.append(write(out, tables, key=f"{count:08x}", subject=subject, **record))
    return [read_run(path) for path in made]


def test_runs_that_differ_in_their_model_alone_are_a_series_in_the_order_of_their_steps(tmp_path):
    runs = checkpoints(tmp_path)
    other = read_run(write(tmp_path, circuit_tables(), task="facts", key="eeeeeeee"))
    same = read_run(write(tmp_path, circuit_tables(), key="dddddddd", subject={"fingerprint": f"{30:08x}"}))
    ((first, second, third),) = series.series([other, *runs, same])
    assert [run.model for run in (first, second, third)] == ["step-30", "step-200", "step-1000"]
    assert series.series(runs[:2]) == []


def test_revisions_tell_checkpoints_of_one_name_apart(tmp_path):
    subjects = [{"name": "m", "fingerprint": f"{i:08x}", "revision": f"step{i}"} for i in (20, 3, 100)]
    runs = [read_run(write(tmp_path, circuit_tables(), key=f"{i:08x}", subject=one)) for i, one in enumerate(subjects)]
    assert series.names(series.in_order(runs)) == ["step 3", "step 20", "step 100"]


def test_maps_hold_the_mean_over_heads_of_every_model(tmp_path):
    """Of effects of a patch, which the page turns round: above 0 is help."""
    runs = series.in_order(checkpoints(tmp_path))
    called = series.names(runs)
    found = measures(called, runs)
    of_heads = next(one for one in found if one.title.endswith("mean over heads"))
    table = runs[0].tables[of_heads.table]
    chosen = table[(table["part"] == "head") & (table["unit"] == of_heads.unit)]
    mine = of_heads.measured[of_heads.measured["model"] == called[0]].sort_values("layer")
    np.testing.assert_allclose(-mine["value"], chosen.groupby("layer")["value"].mean())
    drawn = figures(called, runs, measures(called, runs))
    (cells,) = [trace for trace in traces_of(drawn["map-1"]) if trace.type == "heatmap"]
    assert np.shape(cells.z) in ((len(STEPS), LAYERS), (len(STEPS), LAYERS + 1))


def test_what_grows_most_from_model_to_model_comes_first(tmp_path):
    runs = series.in_order(checkpoints(tmp_path))
    titles = [one.title for one in measures(series.names(runs), runs)]
    assert {*titles[:2]} == {f"{EFFECT}, mean over heads", "lens"}
    assert {*titles[2:]} == {f"{ATTENTION}, mean over heads", EFFECT}  # the same in all


def test_a_report_has_the_page_of_a_series_and_links_its_runs(tmp_path):
    runs = series.in_order(checkpoints(tmp_path))
    pages = {path.name: path for path in build(tmp_path)}
    text = pages[series.address(runs)].read_text()
    assert "3 checkpoints of one training, steps 30 to 1000" in text
    assert all(f'href="{run.name}.html"' in text for run in runs)
    assert series.address(runs) in pages["index.html"].read_text()
    before = pages[series.address(runs)].read_bytes()
    assert compare_page([run.name for run in runs[::-1]], tmp_path).read_bytes() == before


def test_what_does_not_belong_together_is_said_in_a_line(tmp_path, capsys):
    runs = checkpoints(tmp_path)
    other = read_run(write(tmp_path, circuit_tables(), task="facts", key="eeeeeeee"))
    with pytest.raises(ReportError, match="do not belong on one page: two models on two tasks"):
        series.render([*runs, other])
    with pytest.raises(ReportError, match="not another model on the same task"):
        series.render([*runs, runs[0]])
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", runs[0].name, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "name two or more runs" in capsys.readouterr().err


def test_names_of_models_are_escaped(tmp_path):
    subjects = [{"name": f"<script>alert({i})</script>", "fingerprint": f"{i:08x}"} for i in range(3)]
    runs = [read_run(write(tmp_path, circuit_tables(), key=f"{i:08x}", subject=one)) for i, one in enumerate(subjects)]
    assert "<script>alert" not in series.render(runs)
