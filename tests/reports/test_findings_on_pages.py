"""What was found stands first: titles, banners, the gallery; and whatever a run lacks, it has a page."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from crosslens.reports.pages.abilities import _value
from crosslens.reports.pages.build import build
from crosslens.reports.pages.example import example_of
from crosslens.reports.pages.glossary import glossed, heading, terms
from crosslens.reports.pages.ledger import LEDGER, since
from crosslens.reports.pages.tables import short, table_block
from crosslens.reports.pages.verdicts import axis, domain, numbers_of

from ..helpers import synthetic

SAID = "Head 23.3 lowers the repeated name."


def few_heads():
    """Two measures of six heads, by layer and head."""
    places = [
        (measure, layer, head) for measure in ("sink_share", "first_share") for layer in (0, 1) for head in range(3)
    ]
    table = pd.DataFrame(places, columns=["measure", "layer", "head"])
    return table.assign(value=np.linspace(0, 1, 12), unit="share", n=8, n_groups=8)


def report(tmp_path, *rows, **changed):
    """The texts of the run's page and of the gallery."""
    kept = {"heads": few_heads()}
    if rows:
        kept["findings"] = synthetic.findings(*rows)
    run = synthetic.write_run(tmp_path / "runs", "default", "ioi", kept)
    if changed:
        record = {**json.loads((run / "record.json").read_text()), **changed}
        (run / "record.json").write_text(json.dumps(record))
    build(tmp_path)
    return tuple((tmp_path / f"{name}.html").read_text() for name in (run.name, "index"))


def words(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


def test_the_first_finding_is_the_title_and_its_figure_the_first(tmp_path):
    page, index = report(tmp_path, {"text": SAID, "figure": "heads-first_share", "heads": "23.3"}, {"text": "Second."})
    assert words(re.search("<h1>.*?</h1>", page, re.S)[0]) == SAID
    assert page.index('id="fig-heads-first_share-box"') < page.index('id="fig-heads-sink_share-box"')
    assert "Second." in page
    assert SAID in words(index)
    assert f'href="{next((tmp_path / "runs").iterdir()).name}.html#fig-heads-first_share-box"' in index
    assert "23.3" in re.search(r'data-words="([^"]*)"', index)[1]


def test_what_does_not_stand_is_no_strongest_finding_and_says_so(tmp_path):
    page, index = report(
        tmp_path, {"text": "Nothing of it.", "state": "not testable", "reason": "the task is at chance", "rank": 99.0}
    )
    assert "Not testable here: the task is at chance" in page
    assert page.index("the task is at chance") < page.index("<figure ")
    assert "Strongest findings" not in index
    assert "Not testable here: the task is at chance" in index


def test_the_strongest_of_each_run_comes_before_the_second_of_any(tmp_path):
    for task, rank in (("ioi", 1.0), ("facts", 5.0)):
        tables = {"heads": few_heads()}
        rows = [{"text": f"{task} {place}", "rank": rank * 2 - place} for place in range(2)]
        synthetic.write_run(tmp_path / "runs", "x", task, {**tables, "findings": synthetic.findings(*rows, task=task)})
    build(tmp_path)
    strongest = words((tmp_path / "index.html").read_text().split("Strongest findings")[1])
    order = [strongest.index(said) for said in ("facts 0", "ioi 0", "facts 1", "ioi 1")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "changed",
    [
        {"example": None},
        {"example": "text"},
        {"example": {"segments": [["only"]]}},
        {"example": {"segments": [], "spans": 3, "wrong": "x"}},
        {"example": {**synthetic.EXAMPLE, "spans": [["a", -5, 900], ["b"]], "picture": "https://example.org/x.png"}},
        {"subject": {}},
        {"nothing": "No example is left."},
        {"paper": None, "methods": None, "notes": None},
    ],
)
def test_whatever_a_record_lacks_there_is_a_page(tmp_path, changed):
    page, _ = report(tmp_path, **changed)
    assert "example.org" not in page
    assert "<h1>" in page


@pytest.mark.parametrize("kind", ["no findings", "no figures", "NaN only", "one example", "2,000 heads"])
def test_odd_tables_still_give_a_page(tmp_path, kind):
    heads = few_heads()
    if kind == "no figures":
        heads = pd.DataFrame({"value": [1.0], "unit": "x"})
    elif kind == "NaN only":
        heads = heads.assign(value=np.nan, lower=np.nan, upper=np.nan)
    elif kind == "one example":
        heads = heads.assign(n=1, n_groups=1, lower=np.nan, upper=np.nan)
    elif kind == "2,000 heads":
        places = pd.DataFrame([(layer, head) for layer in range(50) for head in range(40)], columns=["layer", "head"])
        heads = places.assign(value=np.linspace(-1, 1, 2000), unit="logits", n=8, n_groups=8)
    found = {"findings": synthetic.findings({"text": SAID, "figure": "gone", "rank": np.nan})}
    rows = {"heads": heads, **({} if kind == "no findings" else found)}
    run = synthetic.write_run(tmp_path / "runs", "default", "ioi", rows)
    build(tmp_path)
    text = (tmp_path / f"{run.name}.html").read_text()
    assert (SAID in words(text)) == (kind != "no findings")
    assert len(text) < 200_000


def test_a_prompt_is_cut_at_its_spans_and_loses_no_letter():
    shown = example_of({"example": synthetic.EXAMPLE})
    assert shown
    assert "".join(text for text, _, _ in shown["pieces"]) == "<s>The capital of France is the city of"
    assert [(text, name) for text, _, name in shown["pieces"] if name] == [("France", "subject")]
    assert shown["roles"] == ["special", "text", "question"]
    long = example_of({"example": {"segments": [["a" * 5000, "text"], ["b" * 5000, "question"]]}})
    assert long
    assert sum(len(text) for text, _, _ in long["pieces"]) < 1000
    assert long["pieces"][-1][:2] == ("b" * 350, "question")


def test_words_are_explained_once_a_block_and_text_stays_text():
    said = str(glossed("The head <b> attends: a head of the logit lens, heads, BOS, bos."))
    assert said.count('class="term"') == 3  # head, logit lens, BOS
    assert "&lt;b&gt;" in said
    assert 'href="glossary.html#logit-lens"' in said
    assert words(said) == "The head &lt;b&gt; attends: a head of the logit lens, heads, BOS, bos."
    assert all(text.endswith(".") for text in terms().values())


def test_headings_and_numbers_of_tables():
    assert [heading(name) for name in ("n_groups", "q_value", "some_share")] == ["groups", "q (FDR)", "some share"]
    assert [short(x) for x in (0.021449, 24926.3, 2, np.nan, 1.96e-6)] == ["0.0214", "24,900", "2", "–", "1.96e-06"]
    base64 = "iVBORw0KGgo" + "A" * 200
    table = pd.DataFrame({"value": [0.1, -3.0, np.nan], "unit": "x", "picture": base64, "rank_of": [1, 2, 3]})
    block = table_block("t", table)
    assert block["columns"] == ["value", "rank of"]
    assert block["shared"] == [("unit", "x")]
    assert [row[0]["text"] for row in block["rows"]] == ["-3", "0.1", "–"]


def test_a_claim_on_an_axis_shows_threshold_control_and_the_papers_number():
    claim = {
        "value": 2.0,
        "lower": 1.0,
        "upper": 3.0,
        "threshold": 0.0,
        "margin": 1.5,
        "paper": 4.0,
        "verdict": "holds",
    }
    assert numbers_of(claim)["control"] == 0.5
    assert domain([claim]) == (0.0, 4.0)
    drawn = axis(claim, domain([claim]))
    for part in ('class="dot"', 'class="span"', 'class="limit"', 'class="control"', 'class="paper"', "threshold 0"):
        assert part in drawn
    assert axis({**claim, "value": np.nan}, domain([claim])) == ""
    assert domain([{"verdict": "holds"}]) is None
    assert "<b>" not in axis({**claim, "unit": "<b>"}, (0, 4))


def test_since_when_a_threshold_stands_is_said_as_far_as_the_ledger_knows():
    with LEDGER.open(encoding="utf-8", newline="") as file:
        line = next(csv.DictReader(file))
    claim = {"name": line["name"], "text": line["text"], "threshold": float(line["threshold"])}
    assert since(line["analysis"], claim) == f"threshold fixed on {line['date']}, version {line['version']}"
    for other in ({"threshold": 7.5}, {"text": "Another."}, {"threshold": None}):
        assert since(line["analysis"], claim | other) == "judged by the text or threshold of another version"
    assert since("nothing", claim) == ""


def test_no_accuracy_is_told_beyond_1():
    """Student's interval of few groups may reach there."""
    assert _value(pd.Series({"value": 0.95, "lower": 0.86, "upper": 1.04})) == "0.95 [0.86, 1]"
