"""A finished run as an object: tables, figures, and a line that says what it is."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import plotly.graph_objects as go
import pytest
from crosslens import open_run
from crosslens.data.errors import UserError

from ..helpers import synthetic


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return synthetic.write_run(out / "runs", "lenses", "facts", synthetic.lenses_tables())


def test_tables_and_figures_by_name(directory):
    run = open_run(str(directory))
    on_disk = {path.stem: pd.read_parquet(path) for path in (directory / "tables").glob("*.parquet")}
    assert set(run.tables) == set(on_disk)
    for name, table in on_disk.items():
        pd.testing.assert_frame_equal(run[name], table)
    assert run.record["analysis"] == "lenses"
    assert {"probability", "rank"} <= set(run.figures)
    assert all(isinstance(figure, go.Figure) for figure in run.figures.values())
    with pytest.raises(KeyError, match="no table 'heads'"):
        run["heads"]


def test_it_prints_itself_in_one_line_and_as_a_table(directory):
    run = open_run(directory)
    assert repr(run).startswith("Run(lenses of smollm2 on facts, n = 180 in 60 groups; tables: ")
    assert "\n" not in repr(run)
    html = run._repr_html_()
    assert html.count("<tr>") == 1 + len(run.tables)
    assert f"{len(run['lens']):,}" in html


def test_names_of_tables_and_tasks_are_escaped(tmp_path):
    table = pd.DataFrame({"<script>": [1.0]})
    path = synthetic.write_run(tmp_path, "lenses", "facts", {"lens": table})
    record = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps(record | {"task": record["task"] | {"name": "<b>facts"}}))
    html = open_run(path)._repr_html_()
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;facts" in html
    assert "<script>" not in html


def test_what_is_no_run_is_told(tmp_path, directory):
    with pytest.raises(UserError, match="not a run directory"):
        open_run(tmp_path / "nothing")
    with pytest.raises(UserError, match="missing") as told:
        open_run(directory.parent)
    assert str(told.value).startswith(f"{directory.parent}: ")
    with pytest.raises(UserError, match=f"runs in .*: {directory.name}"):
        open_run(directory.parent / "lenses")


def test_names_are_listed_and_told(directory):
    run = open_run(directory)
    assert list(run) == list(run.tables)
    assert repr(run.figures) == f"Figures({', '.join(run.figures)})"
    with pytest.raises(KeyError, match=rf"no figure 'effects' in {directory.name}: .*rank"):
        run.figures["effects"]


def test_it_needs_no_torch(directory):
    program = "import sys, crosslens; r = crosslens.open_run(sys.argv[1]); r.figures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, directory], check=True)
