"""The page of heads and MLPs: what the runs of any analysis say of each, joined without a model."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html import unescape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from crosslens.reports.figures.signs import helps
from crosslens.reports.pages import heads
from crosslens.reports.pages.build import build
from crosslens.reports.pages.head_words import named_in
from crosslens.reports.pages.runs import read_runs

from ..helpers import synthetic
from ..helpers.head_runs import EFFECT, HEADS, LAYERS, by_head, circuit_tables, write

EVIL = "</script><b>&\"' {{ 7*7 }}"


def subjects(out):
    return heads.subjects(read_runs(out / "runs")[0], {})


def data(text):
    """The JSON of the page."""
    packed = re.search(r'id="heads-data">(.*?)</script>', text, re.S)[1]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def measure(one, title, where=""):
    (found,) = [m for m in one["measures"] if title in m["title"] and where in m["where"] and not m["mlp"]]
    return found


def test_every_number_of_a_card_stands_in_its_table(tmp_path):
    tables = circuit_tables()
    write(tmp_path, tables)
    (one,) = subjects(tmp_path)
    told = heads.as_data(one)
    rows = helps(tables["effects"])
    for part, mine in (("head", False), ("mlp", True)):
        for m in (m for m in told["measures"] if m["mlp"] == mine):
            table = rows[(rows["part"] == part) & (rows["measure"] == m["title"])]
            for column in ("value", "lower", "upper"):
                np.testing.assert_allclose(m[column], table[column], rtol=1e-3)
    assert told["places"] == [f"{a}.{b}" for a in range(LAYERS) for b in range(HEADS)] + [
        f"mlp.{a}" for a in range(LAYERS)
    ]
    assert measure(told, EFFECT)["p"] == [0.04] * (LAYERS * HEADS)
    assert {m["title"] for m in told["measures"]} == {EFFECT, "attention on answer"}  # no circuit's half, no stability


def test_a_role_comes_with_its_rule(tmp_path):
    write(tmp_path, circuit_tables())
    (one,) = subjects(tmp_path)
    (role,) = heads.as_data(one)["roles"]
    assert role["names"] == {"2.1": "mover"}
    assert role["stages"] == {"2.1": [EFFECT], "1.0": [EFFECT]}
    assert "the 2% of heads" in role["rule"]
    assert "at least 0.2 of its attention on the answer's token" in role["rule"]


def test_any_analysis_with_numbers_by_head_has_cards(tmp_path):
    synthetic.write_run(tmp_path / "runs", "sinks", "passages", synthetic.sinks_tables())
    synthetic.write_run(tmp_path / "runs", "lenses", "facts", synthetic.lenses_tables())
    pages = build(tmp_path)
    assert tmp_path / "head.html" in pages
    assert "head.html" in (tmp_path / "index.html").read_text()
    (one,) = data((tmp_path / "head.html").read_text())["subjects"]
    assert len(one["places"]) == 270
    titles = {(m["title"], m["where"]) for m in one["measures"]}
    assert ("attention on sinks", "Passages, no BOS") in titles
    sinks = measure(one, "attention on sinks", "no BOS")
    assert sinks["controlName"] == "random tokens"
    assert max(v for v in sinks["control"] if v is not None) < 0.02
    assert len(one["chief"]["head"]) <= heads.CHIEF


def test_without_numbers_by_head_the_page_says_so(tmp_path):
    synthetic.write_run(tmp_path / "runs", "lenses", "facts", synthetic.lenses_tables())
    build(tmp_path)
    text = (tmp_path / "head.html").read_text()
    assert "No run has measured single heads yet." in text
    assert "heads-data" not in text
    nothing = by_head(np.full((LAYERS, HEADS), np.nan), "logits")
    write(tmp_path / "nan", {"effects": nothing})
    assert subjects(tmp_path / "nan") == []


def test_tasks_joined_by_overlap_are_no_measures_of_one(tmp_path):
    maps = by_head(np.ones((LAYERS, HEADS)), "logits", measure=EFFECT)
    write(tmp_path, {"maps": maps}, "overlap", joined=["a", "b"])
    assert subjects(tmp_path) == []


def test_conditions_and_runs_stay_apart(tmp_path):
    tables = circuit_tables()
    both = pd.concat([tables["effects"], tables["effects"].assign(condition="no BOS")])
    write(tmp_path, tables)
    write(tmp_path, tables | {"effects": both}, key="89abcdef")
    (one,) = subjects(tmp_path)
    wheres = [m["where"] for m in heads.as_data(one)["measures"] if m["title"] == EFFECT and not m["mlp"]]
    assert wheres == ["Ioi, BOS, run 0123abcd", "Ioi, BOS, run 89abcdef", "Ioi, no BOS"]


def test_two_models_of_one_name_are_told_apart(tmp_path):
    write(tmp_path, circuit_tables())
    write(tmp_path, circuit_tables(), key="89abcdef", subject={"fingerprint": "ffff00001111"})
    assert [one.key for one in subjects(tmp_path)] == ["smollm2", "smollm2@ffff0000"]


def words():
    rows = [
        {"layer": 1, "head": 2, "prompt": p, "rank": r, "token": f" <b>{p}.{r}", "condition": "BOS"}
        for p in (1, 2)
        for r in (1, 2)
    ]
    ov = [
        {"layer": 1, "head": 2, "direction": d, "side": side, "rank": 1, "token": f"{side}{d}"}
        for d in (1, 2)
        for side in ("promotes", "reads")
    ]
    mlp = [{"layer": 3, "rank": 1, "token": "Paris"}]
    return {"words": pd.DataFrame(rows), "ov": pd.DataFrame(ov), "mlp_writes": pd.DataFrame(mlp)}


def test_words_of_heads_and_mlps(tmp_path):
    write(tmp_path, words(), "logit_attribution")
    (one,) = subjects(tmp_path)
    told = {w["title"].partition(" (")[0]: w["texts"] for w in heads.as_data(one)["words"]}
    assert told == {
        "Words it raises most on its strongest prompts": {"1.2": "␣<b>1.1 ␣<b>1.2 | ␣<b>2.1 ␣<b>2.2"},
        "OV circuit, first direction: reads → writes": {"1.2": "reads1 → promotes1"},
        "Mlp writes": {"mlp.3": "Paris"},
    }


def test_findings_and_figures_that_name_a_head_are_listed(tmp_path):
    finding = {"text": "Head 2.1 does it.", "state": "found", "figure": "effects", "heads": "2.1"}
    run = write(tmp_path, circuit_tables() | {"findings": pd.DataFrame([finding])})
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], text=["2.1", ""], mode="markers+text"))
    figure.update_layout(meta={"title": "Halves", "table": "stability"})
    drawn = {run.name: ({"effects": go.Figure(), "halves": figure}, [])}
    (one,) = heads.subjects(read_runs(tmp_path / "runs")[0], drawn)
    assert one.named == [
        {"text": "Head 2.1 does it.", "address": f"{run.name}.html#fig-effects-box", "heads": ["2.1"]},
        {"text": "Halves (circuits: Ioi)", "address": f"{run.name}.html#fig-halves-box", "heads": ["2.1"]},
    ]


@pytest.mark.parametrize(
    ("text", "axis", "found"),
    [
        ("2.1 mover", "linear", ["2.1"]),
        ("2.1", "log", []),  # a tick of a logarithmic axis is a number
        ("0.05", "linear", []),
        ("9.1", "linear", []),  # the model has four layers
        ("BOS", "linear", []),
    ],
)
def test_what_names_a_head_on_an_axis(text, axis, found):
    figure = go.Figure(go.Bar(x=[1], y=[1]))
    figure.update_yaxes(ticktext=[text], tickvals=[0], type=axis)
    assert named_in(figure, LAYERS, HEADS) == found


def test_the_download_holds_what_the_page_shows(tmp_path):
    write(tmp_path, circuit_tables())
    build(tmp_path)
    (file,) = (tmp_path / "downloads").glob("heads-*.csv")
    csv = pd.read_csv(file)
    (one,) = data((tmp_path / "head.html").read_text())["subjects"]
    assert csv["address"].tolist() == one["places"]
    m = measure(one, EFFECT)
    column = f"{m['title']} ({m['unit']}; {m['where']})"
    np.testing.assert_allclose(csv[column].dropna(), m["value"], rtol=1e-3)
    assert f'href="downloads/{file.name}"' in (tmp_path / "head.html").read_text()


def test_hostile_names_are_only_text(tmp_path):
    tables = circuit_tables()
    tables["effects"]["measure"] += EVIL
    tables["effects"]["condition"] = EVIL
    tables["circuit"]["name"] = EVIL
    write(tmp_path, tables | words(), subject={"name": f"owner/{EVIL}"}, of_task={"title": EVIL})
    build(tmp_path)
    text = (tmp_path / "head.html").read_text()
    bare = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "<b>" not in bare
    assert "</script><b>" not in text
    (one,) = data(text)["subjects"]
    assert one["key"] == f"owner/{EVIL}"
    assert f"owner/{EVIL}" in unescape(bare)
    assert EVIL in one["roles"][0]["names"]["2.1"]


def test_two_thousand_heads(tmp_path):
    shape = (40, 50)
    write(tmp_path, circuit_tables(shape=shape), subject={"n_layers": 40, "n_heads": 50})
    (one,) = subjects(tmp_path)
    text = heads.render([one])
    assert len(data(text)["subjects"][0]["places"]) == 2040
    assert len(text.encode()) < 300_000


def test_the_same_runs_give_the_same_page(tmp_path):
    write(tmp_path, circuit_tables() | words())
    assert heads.render(subjects(tmp_path)) == heads.render(subjects(tmp_path))
