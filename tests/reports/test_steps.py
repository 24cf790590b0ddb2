"""Checkpoints of one training: their steps, one shape, lines over steps, what changed from the first to the last."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from crosslens import cli
from crosslens.reports.charts.style import layout_of, traces_of
from crosslens.reports.pages import series
from crosslens.reports.pages.build import build
from crosslens.reports.pages.runs import read_run
from crosslens.reports.pages.series_change import change, halves, sentences
from crosslens.reports.pages.series_figures import figures, measures
from crosslens.reports.pages.steps import notes, step_of, steps, training

from ..helpers.head_runs import circuit_tables, write

STEPS = (173, 1000, 30)


def checkpoints(out, at=STEPS, form="step-{:04d}", **facts):
    """Runs of checkpoints of one training, whose effects grow by 1 in 100 steps."""
    made = []
    for step in at:
        subject = {"name": form.format(step), "fingerprint": f"{step:08x}", "revision": None, **facts}
        made.append(write(out, circuit_tables(step / 100, seed=0), key=f"{step:08x}", subject=subject))
    return [read_run(path) for path in made]


@pytest.mark.parametrize(
    ("name", "revision", "step"),
    [
        ("step-0173", None, 173),
        ("pythia", "step1000", 1000),
        ("run_checkpoint-500", None, 500),
        ("m", "global_step20k", 20_000),
        ("olmo", "stage1-step7000-tokens30B", 7000),
        ("model-step3", "a1b2c3", 3),
        ("pythia-70m", None, None),
        ("smollm2", "main", None),
        ("footstep9", None, None),
        ("step2x", None, None),
    ],
)
def test_a_step_is_read_from_the_revision_or_the_name(name, revision, step):
    assert step_of({"name": name, "revision": revision}) == step


def test_only_checkpoints_of_one_training_with_a_step_each_have_an_axis():
    of = [{"name": "m", "revision": f"step{i}"} for i in (5, 70)]
    assert steps(of) == [5, 70]
    assert steps([*of, {"name": "m", "revision": "main"}]) is None
    assert steps([*of, {"name": "other", "revision": "step9"}]) is None
    assert steps([*of, of[0]]) is None
    assert training({"name": "smollm2", "revision": None}) is None


def test_lines_over_steps_lie_at_their_true_distance_with_bands_and_control(tmp_path):
    runs = series.in_order(checkpoints(tmp_path))
    called, at = series.names(runs), series.steps_of(runs)
    assert called == ["step 30", "step 173", "step 1000"]
    drawn = figures(called, runs, measures(called, runs, at))
    first = drawn["steps-1"]
    assert layout_of(first).xaxis.title.text == "step"
    curves = [trace for trace in traces_of(first) if "markers" in (trace.mode or "")]
    assert all(list(trace.x) == sorted(STEPS) for trace in curves)
    assert sum(trace.fill == "toself" for trace in traces_of(first)) == len(curves)
    assert list(layout_of(drawn["map-1"]).yaxis.ticktext) == ["30", "173", "1000"]


def test_names_without_a_number_have_no_axis_of_steps(tmp_path):
    runs = [
        read_run(write(tmp_path, circuit_tables(), key=f"{i:08x}", subject={"name": name, "fingerprint": str(i)}))
        for i, name in enumerate(("early", "late", "middle"))
    ]
    assert series.steps_of(runs) is None
    assert not any(name.startswith("steps") for name in figures(series.names(runs), runs, series.measured(runs)))
    assert "models side by side" in series.render(runs)
    assert b"step" not in series.download(runs).csv.splitlines()[0]


def test_the_download_has_every_value_with_its_step(tmp_path):
    runs = series.in_order(checkpoints(tmp_path))
    build(tmp_path)
    table = series.download(runs)
    rows = pd.read_csv(tmp_path / table.file)
    assert sorted(rows["step"].unique()) == sorted(STEPS)
    mine = rows[(rows["table"] == "lens") & (rows["step"] == 1000)].sort_values("state")
    np.testing.assert_allclose(mine["value"], runs[-1].tables["lens"]["value"], rtol=1e-5)
    assert table.file.split("/")[1] in series.render(runs)


def test_the_change_is_last_minus_first_with_an_interval_as_of_independent_runs(tmp_path):
    runs = series.in_order(checkpoints(tmp_path))
    found = measures(series.names(runs), runs, series.steps_of(runs))
    one = next(one for one in found if one.of_heads and one.title.startswith("effects, patched"))
    made = change(one, "step 30", "step 1000").rows
    np.testing.assert_allclose(np.abs(made["value"]), 9.7)
    np.testing.assert_allclose(made["upper"] - made["value"], 0.1 * np.sqrt(2))
    assert made["clear"].all()
    text = next(s for s in sentences(found, series.names(runs)) if s.startswith("Effects, patched"))
    assert "4 of 4 layers change beyond the interval" in text
    still = change(one, "step 30", "step 30").rows
    assert not still["clear"].any()


def test_a_table_without_intervals_says_so_and_controls_stand_beside(tmp_path):
    made = []
    for step in STEPS:
        one = pd.DataFrame({"layer": range(3), "value": np.arange(3.0) * step, "control": "", "unit": "rank"})
        table = pd.concat([one, one.assign(value=0.5 * step, control="permuted")])
        subject = {"name": f"step{step}", "fingerprint": f"{step}"}
        made.append(read_run(write(tmp_path, {"ranks": table}, key=f"{step:08x}", subject=subject)))
    runs = series.in_order(made)
    (text,) = sentences(measures(series.names(runs), runs, series.steps_of(runs)), series.names(runs))
    assert "no interval, so only the change of a control can tell it from chance" in text
    assert "permuted +485" in text
    assert "+1,940 rank" in text


def test_two_halves_of_the_data_stand_beside_the_change(tmp_path):
    runs = series.in_order(checkpoints(tmp_path))
    table = pd.concat([pd.DataFrame({"layer": range(3), "half": half, "value": half * 1.0}) for half in (1, 2)])
    first, last = runs[0], runs[-1]
    first.tables["stability"], last.tables["stability"] = table, table.assign(value=table["value"] + 5)
    (text,) = halves(first, last)
    assert "change by 5 " in text
    assert "differ by 1," in text
    del first.tables["stability"]
    assert not list(halves(first, last))


def test_checkpoints_of_other_shapes_are_left_apart_with_a_note(tmp_path):
    runs = checkpoints(tmp_path)
    (odd,) = checkpoints(tmp_path, (500,), n_layers=8)
    (group,) = series.series([*runs, odd])
    assert odd not in group
    (note,) = notes([*runs, odd])
    assert "step-0500" in note
    assert "layers 4 against 8" in note
    text = {path.name: path for path in build(tmp_path)}["index.html"].read_text()
    assert "are not put side by side" in text
    assert not notes(runs)


def test_two_trainings_of_equal_names_are_two_series(tmp_path):
    paths = []
    for i, place in enumerate(("/a", "/b")):
        for step in STEPS:
            key, location = f"{i}{step:07x}", f"{place}/step-{step}.safetensors"
            subject = {"name": f"step-{step}", "fingerprint": key}
            paths.append(write(tmp_path, circuit_tables(step), key=key, subject=subject, location=location))
    groups = series.series([read_run(path) for path in paths])
    assert [{run.record["location"][:2] for run in group} for group in groups] == [{"/a"}, {"/b"}]


def test_who_says_that_unlike_shapes_belong_together_is_refused_in_a_line(tmp_path, capsys):
    runs = [*checkpoints(tmp_path, STEPS[:2]), *checkpoints(tmp_path, (500,), n_heads=2)]
    for several in (runs, runs[1:]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["compare", *(run.name for run in several), "--out", str(tmp_path)])
        assert stop.value.code == 2
        told = capsys.readouterr().err.strip()
        assert "heads 3 against 2" in told
        assert "\n" not in told
