"""Shared heads: a choice shares all of itself, the null is what shuffling within layers gives, runs are joined."""

from __future__ import annotations

import numpy as np
import pytest
from crosslens.analyses.common.circuit_overlap import heads_in_common
from crosslens.analyses.steered import highlighting, lofit, shared_heads
from crosslens.cli import main
from crosslens.data.errors import UserError
from crosslens.probes.runs.join import finished, join
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.pages.runs import read_run

from ..helpers import contrasts, tiny
from ..helpers.makers import tables_from_runs
from .claims.shared_heads import EVERY, OTHERS, SHAPE, SOME, run_of, tables_of


def test_a_choice_shares_all_of_itself_and_none_of_another():
    runs = {"a": run_of(SOME), "b": run_of(SOME), "c": run_of(OTHERS)}
    found = tables_from_runs(runs, module=shared_heads)
    rows = found["shared"].set_index("pair")
    assert rows["value"].to_dict() == {"a and b": 1.0, "a and c": 0.0, "b and c": 0.0}
    assert rows.loc["a and b", "q_value"] < 1e-3
    assert rows.loc["a and c", "p_value"] == 1
    heads = found["heads"].set_index(["layer", "head"])
    assert {place: heads.loc[place, "tasks"] for place in (*SOME, *OTHERS)} == (
        dict.fromkeys(SOME, "a, b") | dict.fromkeys(OTHERS, "c")
    )
    assert heads["value"].sum() == 15


def test_the_null_is_what_shuffling_within_layers_gives():
    rng = np.random.default_rng(0)
    first = {(int(layer), int(head)) for layer, head in rng.integers(0, SHAPE, (30, 2))}
    second = {(int(layer), int(head)) for layer, head in rng.integers(0, SHAPE, (20, 2))}
    row = heads_in_common(first, second, SHAPE)
    there = np.zeros(SHAPE, bool)
    there[tuple(np.array([*second]).T)] = True
    own = np.zeros(SHAPE, bool)
    own[tuple(np.array([*first]).T)] = True
    drawn = np.array([(own & rng.permuted(there, axis=1)).sum() for _ in range(4000)])
    size = min(len(first), len(second))
    assert row["heads"] == size
    assert row["common"] == (own & there).sum()
    assert row["expected"] * size == pytest.approx(drawn.mean(), abs=0.1)
    assert row["p_value"] == pytest.approx((drawn >= row["common"]).mean(), abs=0.03)
    assert row["lower"] * size == pytest.approx(np.quantile(drawn, 0.025), abs=1)
    assert row["upper"] * size == pytest.approx(np.quantile(drawn, 0.975), abs=1)


def test_sets_that_hold_every_head_tell_nothing():
    (row,) = tables_of(EVERY, EVERY)["shared"].to_dict("records")
    assert (row["value"], row["p_value"]) == (1, 1)
    assert row["untestable"].startswith("the most heads that these sets could share")
    with pytest.raises(ValueError, match="a set of heads is empty"):
        heads_in_common(SOME, (), SHAPE)


def test_the_ceiling_is_what_two_seeds_share():
    (row,) = tables_of(again=(*SOME[:3], *OTHERS[3:]))["shared"].to_dict("records")
    assert row["ceiling"] == pytest.approx(3 / 5)
    assert np.isnan(tables_of()["shared"]["ceiling"]).all()


def test_runs_are_joined_from_a_directory_or_by_name(tmp_path, capsys):
    task = contrasts.task()
    options = highlighting.Options(spans=("indirect_object",), alphas=(0.1,), top=2, draws=1, neutral=0)
    for name, seed in (("twins", 0), ("others", 5)):
        settings = Settings(limit=8, seed=seed, out=tmp_path)
        run(tiny.subject(), type(task)(name, task.module, {}), {"highlighting": (highlighting, options)}, settings)
    runs = finished(tmp_path, "highlighting")
    main(["overlap", "--of", "highlighting", "--out", str(tmp_path)])
    directory = tmp_path / "runs" / capsys.readouterr().out.strip().rpartition("/")[2]
    read = read_run(directory)
    assert {"shared", "heads", "claims", "findings"} <= set(read.tables)
    assert read.record["joined"] == [path.name for path in runs]
    assert join(runs, "shared_heads", shared_heads, shared_heads.Options(), tmp_path, "") == directory


def test_runs_of_two_analyses_are_not_joined(tmp_path):
    task = contrasts.task()
    small = lofit.Options(steps=1, draws=1, neutral=0, top=1)
    own = highlighting.Options(spans=("indirect_object",), alphas=(0.1,), top=2, draws=1, neutral=0)
    made = run(tiny.subject(), task, {"highlighting": (highlighting, own)}, Settings(limit=8, out=tmp_path))
    made += run(tiny.subject(), task, {"lofit": (lofit, small)}, Settings(limit=8, out=tmp_path))
    with pytest.raises(UserError, match=r"is a run of lofit, .* of highlighting: name runs of one"):
        join(made, "shared_heads", shared_heads, shared_heads.Options(), tmp_path, "")
