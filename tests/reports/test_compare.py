"""Two runs side by side: laws of the difference, what is refused, which pairs a report builds."""

from __future__ import annotations

from html import unescape

import numpy as np
import pandas as pd
import pytest
from crosslens import cli
from crosslens.data.errors import ReportError
from crosslens.reports.pages import compare, compare_figures
from crosslens.reports.pages.build import build, compare_page
from crosslens.reports.pages.compare_claims import forest
from crosslens.reports.pages.compare_rows import aligned, by_unlikeness, difference
from crosslens.reports.pages.runs import read_run
from crosslens.reports.pages.words import tasks_apart

from ..helpers import synthetic
from ..helpers.head_runs import ATTENTION, EFFECT, HEADS, LAYERS, by_head, circuit_tables, write

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(2)>&"{{ 7*7 }}'


def two(out, shift=1.0, **second):
    """A run of ioi and one of another model."""
    a = write(out, circuit_tables())
    subject = {"name": "other", "fingerprint": "ffff"} | second.pop("subject", {})
    b = write(out, circuit_tables(shift, seed=1), key="89abcdef", subject=subject, **second)
    return read_run(a), read_run(b)


def test_a_run_compared_with_itself_differs_nowhere(tmp_path):
    run = read_run(write(tmp_path, circuit_tables()))
    pairs = aligned(run, run)
    assert [(pair.table, pair.title, pair.place) for pair in pairs] == [
        ("effects", EFFECT, ["layer", "head"]),
        ("effects", ATTENTION, ["layer", "head"]),
        ("effects", EFFECT, ["layer"]),
        ("lens", "lens", ["state"]),
    ]
    for pair in pairs:
        apart = difference(pair)
        assert len(apart) == len(pair.measured[0])
        assert (apart["value"] == 0).all()
        assert not apart["clear"].any()
    for claim in forest(run, run):
        assert claim["difference"]["value"] == 0
        assert claim["sides"][0] == claim["sides"][1]
        assert claim["axis"]["rows"][0] == claim["axis"]["rows"][1]
    assert by_unlikeness(pairs) == pairs
    assert "differ beyond" in compare.render(run, run)


def test_the_order_of_the_two_mirrors_the_sign(tmp_path):
    a, b = two(tmp_path)
    for pair, mirrored in zip(aligned(a, b), aligned(b, a), strict=True):
        one, other = (difference(p).sort_values(pair.place).reset_index(drop=True) for p in (pair, mirrored))
        np.testing.assert_array_equal(one["value"], -other["value"])
        np.testing.assert_array_equal(one["lower"], -other["upper"])
        np.testing.assert_array_equal(one["first"], other["second"])
        np.testing.assert_array_equal(one["clear"], other["clear"])
    (one,), (other,) = forest(a, b), forest(b, a)
    assert one["difference"]["value"] == -other["difference"]["value"]
    assert one["difference"]["lower"] == -other["difference"]["upper"]
    assert one["sides"] == other["sides"][::-1]


def test_what_is_drawn_stands_in_the_tables(tmp_path):
    a, b = two(tmp_path)
    drawn = compare_figures.figures(("one", "two"), (LAYERS, LAYERS), aligned(a, b))
    assert list(drawn) == [
        "heads",
        "maps-1",
        "difference-1",
        "maps-2",
        "difference-2",
        "curves-1",
        "curves-2",
        "depth",
        "places",
    ]
    rows = [run.tables["effects"].query("part == 'head'") for run in (a, b)]
    effects = [-r[r["measure"] == EFFECT].pivot(index="head", columns="layer", values="value") for r in rows]  # helps
    for figure in (drawn["maps-1"], drawn["curves-1"], drawn["curves-2"]):
        meta = figure.layout.meta
        assert ("Above 0" in meta["read"]) == (meta["table"] == "effects")
    maps = drawn["maps-1"]
    for trace, effect in zip(maps.data, effects, strict=True):
        np.testing.assert_allclose(np.array(trace.z, float), effect, rtol=1e-4)
        assert (trace.zmin, trace.zmax) == (maps.data[0].zmin, maps.data[0].zmax)
    apart = np.array(drawn["difference-1"].data[0].z, float)
    np.testing.assert_allclose(apart, effects[1] - effects[0], rtol=1e-4)
    named = [label for trace in drawn["heads"].data for label in (trace.text or ()) if label]
    assert len(named) == 10  # five in each panel
    largest = (effects[1] - effects[0]).abs().stack().nlargest(5)
    assert {f"{layer:.0f}.{head:.0f}" for head, layer in largest.index} == set(named[:5])
    assert [f.layout.meta["theme"] for f in drawn.values()].count("main") == 3


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"analysis": "edges"}, "other analysis: circuits against edges"),
        ({"versions": {"analysis": 9}}, "other version of the analysis: nothing against 9"),
        ({"of_task": {"template": "chat"}}, "other prompts: template: raw against chat"),
        ({"of_task": {"version": 2}}, "other prompts: version 1 of the task against 2"),
        ({"of_task": {"own_answer_tokens": 8}}, "the model's own answer: 0 against 8"),
        ({"conditions": ["no BOS"]}, "other conditions: BOS against no BOS"),
        ({"options": {"share": 0.05, "mover_attention": 0.2}}, "other options: share 0.02 against 0.05"),
        ({"task": "facts"}, "two models on two tasks"),
    ],
)
def test_unlike_conditions_are_refused_in_words(tmp_path, capsys, second, said):
    a, b = two(tmp_path, **second)
    assert said in compare.refusal(a, b)
    with pytest.raises(ReportError, match="cannot be compared"):
        compare_page([a.name, b.name], tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", a.name, b.name, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert compare.pairs([a, b]) == []
    assert not list(tmp_path.glob("*.html"))


def test_the_command_takes_names_or_directories(tmp_path, capsys):
    a, b = two(tmp_path)
    cli.main(["compare", a.name, str(tmp_path / "runs" / b.name), "--out", str(tmp_path)])
    path = tmp_path / compare.address(a, b)
    assert capsys.readouterr().out.strip() == str(path)
    assert f"{a.name}.html" not in path.read_text()  # no page of the run lies there yet
    build(tmp_path)
    cli.main(["compare", a.name, b.name, "--out", str(tmp_path)])
    assert f'href="{a.name}.html"' in path.read_text()
    for words, said in ((["x"], "name two or more runs"), ([a.name, "nowhere"], "nowhere: ")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["compare", *words, "--out", str(tmp_path)])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_a_report_builds_the_pairs_that_fit(tmp_path):
    a, b = two(tmp_path)
    other = read_run(write(tmp_path, circuit_tables(), task="facts", key="00ff00ff"))
    again = read_run(write(tmp_path, circuit_tables(), key="aaaa0000"))  # the same model and task once more
    pages = [path.name for path in build(tmp_path) if path.name.startswith("compare-")]
    expected = [(a, b), (b, again), (other, a), (other, again)]
    assert sorted(pages) == sorted(compare.address(x, y) for x, y in expected)
    gallery = (tmp_path / "index.html").read_text()
    assert all(page in gallery for page in pages)
    assert compare.names(a, b) == ("smollm2", "other")
    assert compare.names(a, other) == ("Ioi", "Facts")
    assert compare.title(a, b) == "Circuits, Ioi: smollm2 against other"


def test_no_more_than_a_dozen_pairs_the_newest_first(tmp_path):
    runs = []
    for number in range(8):
        when = {"finished": f"2026-01-0{number + 1}T00:00:00"}
        runs.append(read_run(write(tmp_path, circuit_tables(), task=f"task{number}", key=f"0000000{number}", **when)))
    found = compare.pairs(runs)
    assert len(found) == compare.MOST
    assert {run.name for run in found[0]} == {runs[-1].name, runs[-2].name}
    assert runs[0].name not in {run.name for pair in found[:6] for run in pair}
    assert compare.pairs(runs[::-1]) == found


def test_models_of_other_shapes_are_compared_over_relative_depth(tmp_path):
    a = read_run(write(tmp_path, circuit_tables()))
    subject = {"name": "deep", "fingerprint": "f", "n_layers": 8, "n_heads": 5}
    b = read_run(write(tmp_path, circuit_tables(shape=(8, 5)), key="89abcdef", subject=subject))
    drawn = compare_figures.figures(("one", "two"), (LAYERS, 8), aligned(a, b))
    assert list(drawn) == ["curves-1", "curves-2", "depth"]
    for figure in drawn.values():
        xs = [x for trace in figure.data for x in trace.x or () if x is not None and not trace.fill]
        assert max(xs) <= 1
    assert "models differ in depth" in compare.render(a, b)


def test_conditions_that_only_one_run_has_are_left_out_and_said(tmp_path):
    tables = circuit_tables()
    both = {name: pd.concat([t, t.assign(condition="no BOS")]) for name, t in tables.items() if name != "claims"}
    a = read_run(write(tmp_path, both, conditions=["BOS", "no BOS"]))
    b = read_run(write(tmp_path, tables, key="89abcdef", subject={"name": "other", "fingerprint": "ff"}))
    assert next(pair.title for pair in aligned(a, b)) == f"{EFFECT} · BOS"
    assert "Compared where both were run: BOS." in compare.render(a, b)


def test_later_analyses_are_compared_by_their_columns(tmp_path):
    """Controls stay controls, whole numbers tell series apart, tables of chosen heads are left out."""
    curve = pd.DataFrame({"layer": [0, 1, 2] * 2, "position": [0] * 3 + [1] * 3, "value": 1.0, "unit": "x"})
    control = curve.assign(control="random", value=0.1)
    tables = {"new": pd.concat([curve.assign(control=""), control]), "circuit": circuit_tables()["circuit"]}
    a = read_run(write(tmp_path, tables, "brand_new"))
    b = read_run(write(tmp_path, tables, "brand_new", task="facts", key="89abcdef"))
    assert [pair.title for pair in aligned(a, b)] == ["position 0", "position 1"]
    assert [len(pair.sides[0]) for pair in aligned(a, b)] == [6, 6]
    assert [len(pair.measured[0]) for pair in aligned(a, b)] == [3, 3]
    assert "Dotted: the control" in compare.render(a, b)


@pytest.mark.parametrize(
    "kind", ["nan", "empty", "no tables", "other units", "old claims", "2000 heads", "no intervals"]
)
def test_whatever_the_tables_hold_there_is_a_page(tmp_path, kind):
    tables, size = circuit_tables(), {}
    if kind == "nan":
        tables["effects"][["value", "lower", "upper"]] = np.nan
        tables["claims"][["value", "lower", "upper", "threshold", "margin"]] = np.nan
    elif kind == "empty":
        tables = {name: table[:0] for name, table in tables.items()}
    elif kind == "no tables":
        tables = {}
    elif kind == "old claims":
        tables["claims"] = synthetic.claims(("Few heads.", "arXiv", "0.5", "holds"))
    elif kind == "2000 heads":
        tables, size = circuit_tables(shape=(40, 50)), {"n_layers": 40, "n_heads": 50}
    elif kind == "no intervals":
        tables = {name: table.drop(columns=["lower", "upper"], errors="ignore") for name, table in tables.items()}
    a = read_run(write(tmp_path, tables, subject=size))
    if kind == "other units":
        tables = tables | {"effects": tables["effects"].assign(unit="shares")}
    b = read_run(write(tmp_path, tables, task="facts", key="89abcdef", subject=size))
    text = compare.render(a, b)
    assert "Ioi against Facts" in text
    assert ("no measure by head" in text) == (kind in ("empty", "no tables"))
    assert ("Few heads." in text) == (kind not in ("empty", "no tables"))


def test_one_head_alone(tmp_path):
    one = {"effects": by_head(np.ones((1, 1)), "logits", measure=EFFECT)}
    a = read_run(write(tmp_path, one))
    assert "fig-heads-box" in compare.render(a, read_run(write(tmp_path, one, task="facts", key="89abcdef")))
    assert HEADS > 1


def test_hostile_texts_are_only_text(tmp_path):
    tables = circuit_tables()
    tables["effects"]["measure"] += EVIL
    tables["effects"]["unit"] = EVIL
    for column in ("text", "source", "numbers", "verdict", "condition"):
        tables["claims"][column] = EVIL
    tables["findings"] = pd.DataFrame([{"text": EVIL, "state": EVIL, "heads": ""}])
    of_task = {"title": EVIL, "options": {EVIL: EVIL}}
    a = read_run(write(tmp_path, tables, of_task=of_task, subject={"name": EVIL, "revision": EVIL}))
    b = read_run(
        write(tmp_path, tables, key="89abcdef", of_task=of_task, subject={"name": f"b{EVIL}", "fingerprint": "ff"})
    )
    text = compare.render(a, b)
    assert "<img" not in text
    assert "<script>alert" not in text
    assert unescape(text).count(EVIL) > 5


def test_the_same_runs_give_the_same_page(tmp_path):
    a, b = two(tmp_path)
    assert compare.render(a, b) == compare.render(a, b)
    path = compare_page([a.name, b.name], tmp_path)
    before = path.read_bytes()
    assert compare_page([a.name, b.name], tmp_path).read_bytes() == before


def test_one_task_with_other_options_is_called_by_them():
    picture = {"name": "scenes", "title": "Questions", "options": {"kinds": "colour"}}
    words = {"name": "scenes", "title": "Questions", "options": {"kinds": "colour", "form": "words"}}
    assert tasks_apart([picture, words]) == ["form default", "form words"]
    assert tasks_apart([picture, {"name": "ioi", "title": "Ioi"}]) == ["Questions: kinds colour", "Ioi"]
