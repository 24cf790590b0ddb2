"""Overlap: equal circuits overlap wholly, the null is the exact distribution, a joined run is a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from crosslens.analyses.circuits import _circuit_tables, circuits, overlap
from crosslens.analyses.common import stats
from crosslens.analyses.common.claims import FAILS, HOLDS, UNTESTABLE
from crosslens.cli import main
from crosslens.probes.runs.join import finished, join, labels_apart
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.pages.runs import read_run

from ..helpers import contrasts, tiny
from ..helpers.makers import tables_from_runs
from .claims.overlap import SOME, effects_of, tables_of


def test_a_task_overlaps_itself_wholly_and_a_shifted_one_not_at_all():
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(10, 9)) ** 3
    order = np.argsort(np.abs(effects).ravel())
    away = np.zeros(90)
    away[order[:30]] = 5 + rng.random(30)
    found = tables_from_runs(
        {"a": tables_of(effects), "b": tables_of(-2 * effects), "c": tables_of(away.reshape(10, 9))}
    )
    rows = found["overlap"].set_index(["pair", "share"])
    assert (rows.loc["a and b", "value"] == 1).all()
    assert (rows.loc["a and b", "ceiling"] == 1).all()
    assert (rows.loc["a and c", "value"][:5] == 0).all()
    assert rows.loc[("a and b", 0.1), "p_value"] < 1e-4
    assert rows.loc[("a and c", 0.1), "p_value"] == 1
    scores = found["correlation"].set_index(["pair", "kind"])["value"]
    assert scores["a and b", "|effect|"] == pytest.approx(1)
    assert scores["a and b", "effect"] == pytest.approx(-1)
    shared = found["circuit"].query("value == 3")
    assert shared.empty
    claims = {claim.numbers.partition(":")[0]: claim.verdict for claim in overlap.claims(found)}
    assert claims == {"a and b": HOLDS, "a and c": FAILS, "b and c": FAILS}


def test_two_tasks_with_equal_effects_stay_within_the_ceiling_and_noise_fails_nothing():
    """Halves differ as the tasks do: fewer heads in common than at the ceiling's mean is no failure."""
    rng = np.random.default_rng(2)
    truth = np.concatenate([rng.normal(0, 1, (5, 20)), np.zeros((5, 20))])
    verdicts = []
    for _ in range(30):
        runs = {}
        for task in "ab":
            halves = tuple(truth + rng.normal(0, 0.6, truth.shape) for _ in range(2))
            runs[task] = tables_of((halves[0] + halves[1]) / 2, halves)
        verdicts += [claim.verdict for claim in overlap.claims(tables_from_runs(runs))]
    assert verdicts.count(FAILS) <= 2
    assert verdicts.count(HOLDS) >= 5


def test_pairs_are_corrected_for_their_number():
    """21 pairs of tasks that share nothing but chance: q is Benjamini–Hochberg's over the pairs."""
    rng = np.random.default_rng(3)
    runs = {name: tables_of(rng.normal(size=(6, 12))) for name in "abcdefg"}
    rows = tables_from_runs(runs)["overlap"].query("share == 0.1")
    assert len(rows) == 21
    np.testing.assert_allclose(rows["q_value"], stats.benjamini_hochberg(rows["p_value"].to_numpy()))
    assert (rows["q_value"] >= rows["p_value"]).all()


def test_pooled_circuits_are_the_union_of_the_stages():
    """n = 100 heads, the top two of each stage."""

    def run_of(*tops):
        parts = []
        for stage, top in zip(_circuit_tables.STAGES, tops, strict=False):
            effects = np.zeros((10, 10))
            effects[tuple(np.array(top).T)] = 1
            parts.append(tables_of(effects, stages=(stage,)))
        return {name: pd.concat([part[name] for part in parts]) for name in parts[0]}

    first = run_of([(0, 0), (1, 0)], [(1, 0), (2, 0)])
    second = run_of([(1, 0), (3, 0)], [(2, 0), (4, 0)])
    found = tables_from_runs({"a": first, "b": second})["pooled"].set_index("measure")
    assert set(found["common"]) == {2}
    assert found["value"].to_dict() == {"of the first task's": 2 / 3, "of the second's": 2 / 4, "Jaccard": 2 / 5}
    every = [[(stage, 0), (stage, 1)] for stage in range(len(_circuit_tables.STAGES))]
    whole = tables_from_runs({"a": run_of(*every), "b": run_of(*every)})["pooled"]
    assert set(whole["stages"]) == {5}
    assert set(whole["common"]) == {10}


def test_a_task_that_is_not_solved_has_no_circuit_to_share():
    run_ = tables_of(effects_of(SOME))
    tested = pd.DataFrame({"claim": ["sparse"], "condition": ["no BOS"], "untestable": ["the task is not solved here"]})
    found = tables_from_runs({"a": run_, "b": run_ | {"tested": tested}})
    (claim,) = overlap.claims(found)
    assert claim.verdict == UNTESTABLE
    assert claim.numbers.endswith("b: the task is not solved here")


def test_the_null_is_what_shuffling_within_layers_gives():
    rng = np.random.default_rng(1)
    a, b = (np.abs(rng.normal(size=(6, 8))) * np.linspace(0.2, 2, 6)[:, None] for _ in range(2))
    found = tables_from_runs({"a": tables_of(a), "b": tables_of(b)})["overlap"]
    point = found.query("share == 0.2").iloc[0]
    drawn = [stats.circuit_overlap(a, rng.permuted(b, axis=1), share=0.2).share for _ in range(2000)]
    assert point["expected"] == pytest.approx(np.mean(drawn), abs=0.02)
    assert (point["lower"], point["upper"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.11)
    assert point["p_value"] == pytest.approx(np.mean(np.array(drawn) >= point["value"]), abs=0.05)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("overlap")
    made = []
    for name, seed in (("twins", 0), ("others", 5)):
        task = contrasts.task()
        task = type(task)(name, task.module, {})
        settings = Settings(limit=8, seed=seed, out=out)
        made += run(tiny.subject(), task, {"circuits": (circuits, circuits.Options(steps=False))}, settings)
    return out, made


def test_a_joined_run_is_a_run(runs, capsys):
    out, made = runs
    assert sorted(finished(out, "circuits")) == sorted(made)
    main(["overlap", "--out", str(out)])
    directory = out / "runs" / capsys.readouterr().out.strip().rpartition("/")[2]
    read = read_run(directory)
    assert {"maps", "scatter", "overlap", "correlation", "circuit", "claims"} <= set(read.tables)
    assert read.record["joined"] == [path.name for path in finished(out, "circuits")]
    again = join(finished(out, "circuits"), "overlap", overlap, overlap.Options(), out, "")
    assert again == directory
    maps = read.tables["maps"].query("tasks == 'twins' and measure == @_circuit_tables.EXACT")
    effects = pd.read_parquet(next(p for p in made if ".twins." in p.name) / "tables" / "effects.parquet")
    expected = effects.query("part == 'head' and measure == @_circuit_tables.EXACT")
    np.testing.assert_allclose(maps["logits"].to_numpy(), expected["value"].to_numpy())


@pytest.mark.parametrize(("words", "said"), [((0,), "needs two"), ((0, 0), "two of the runs are of task")])
def test_mistakes_are_one_line(runs, capsys, words, said):
    out, made = runs
    with pytest.raises(SystemExit) as exit:
        main(["overlap", *(str(made[i]) for i in words), "--out", str(out)])
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert said in error
    assert sum(not line.startswith("takes ") for line in error.splitlines()) == 1


def test_a_joined_run_is_verified_by_its_parts(runs, capsys):
    out, _ = runs
    directory = join(finished(out, "circuits"), "overlap", overlap, overlap.Options(), out, "")
    with pytest.raises(SystemExit):
        main(["verify", str(directory)])
    assert "verify those" in capsys.readouterr().err


def circuit(out, name, **settings):
    task = contrasts.task()
    settings = {"limit": 8, "out": out} | settings
    analyses = {"circuits": (circuits, circuits.Options(steps=False))}
    (directory,) = run(tiny.subject(), type(task)(name, task.module, {}), analyses, Settings(**settings))
    return directory


@pytest.fixture(scope="module")
def conditions(tmp_path_factory):
    """Two tasks with both conditions, and a third run of the first task with another seed."""
    out = tmp_path_factory.mktemp("conditions")
    both = [circuit(out, name, bos=(True, False)) for name in ("twins", "others")]
    return out, [*both, circuit(out, "third")], circuit(out / "seeds", "twins", seed=3)


def said(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("crosslens: "))


def test_conditions_are_never_mixed(conditions, capsys):
    out, (twins, others, third), _ = conditions
    assert "choose one, --bos yes or --bos no" in said(capsys, "overlap", twins, others, "--out", out)
    for flag, condition in (("yes", "BOS"), ("no", "no BOS")):
        capsys.readouterr()
        main(["overlap", str(twins), str(others), "--bos", flag, "--out", str(out)])
        took = capsys.readouterr()
        assert [f"takes {path}" for path in (twins, others)] == took.err.splitlines()
        read = read_run(out / "runs" / took.out.strip().rpartition("/")[2])
        assert read.record["conditions"] == [condition]
        assert set(read.tables["claims"]["condition"]) == {condition}
        maps = read.tables["maps"].query("tasks == 'twins' and measure == @_circuit_tables.EXACT")
        effects = pd.read_parquet(twins / "tables" / "effects.parquet")
        expected = effects.query("part == 'head' and measure == @_circuit_tables.EXACT and condition == @condition")
        np.testing.assert_allclose(maps["logits"].to_numpy(), expected["value"].to_numpy())
    alone = read_run(join([twins, third], "overlap", overlap, overlap.Options(), out, ""))
    assert alone.record["conditions"] == ["BOS"]
    assert "not all of the runs have no BOS" in said(capsys, "overlap", twins, third, "--bos", "no", "--out", out)


def test_ambiguous_runs_are_named(conditions, capsys):
    out, (twins, *_), seeds = conditions
    moved = out / "runs" / seeds.name
    seeds.rename(moved)
    line = said(capsys, "overlap", "--out", out)
    moved.rename(seeds)
    assert "2 runs of circuits on twins differ in seed" in line
    assert f"0: {twins}" in line
    assert f"3: {moved}" in line


def test_runs_with_other_options_are_not_joined(conditions, capsys):
    out, (_, _, third), _ = conditions
    task = contrasts.task()
    options = circuits.Options(steps=False, share=0.5)
    (other,) = run(
        tiny.subject(), type(task)("fourth", task.module, {}), {"circuits": (circuits, options)}, Settings(8, out=out)
    )
    line = said(capsys, "overlap", third, other, "--out", out)
    assert "the runs differ in options" in line
    assert "share=0.5" in line


def test_tasks_are_called_by_the_options_that_they_do_not_share():
    def said(*tasks):
        return labels_apart([{"task": {"name": name, "options": options}} for name, options in tasks])

    colours = {"kinds": ["colour"]}
    told = ["scenes", "scenes form=words"]
    assert said(("scenes", colours), ("scenes", {**colours, "form": "words"})) == told
    assert said(("ioi", {}), ("facts", {"relation": "capital"})) == ["ioi", "facts relation=capital"]
    assert said(("facts", {"relation": "capital"})) == ["facts relation=capital"]


def test_where_no_number_of_heads_could_be_more_than_depth_the_finding_says_so():
    row = {"pair": "a and b", "measure": _circuit_tables.DIRECT, "common": 1, "heads": 1, "value": 1.0, "lower": 0.0}
    row |= {"upper": 1.0, "expected": 0.5, "p_value": 0.5, "share": 0.02, "n": 60, "n_groups": 20, "untestable": ""}
    said = [
        overlap.findings({"overlap": pd.DataFrame([row | {"p_least": least}])})[0].text for least in (0.5, 0.05, 0.01)
    ]
    assert ["no number of heads in common could be" in text for text in said] == [True, False, False]
    assert all("not shown to be more than depth alone gives" in text for text in said)
