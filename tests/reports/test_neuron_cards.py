"""The page of single neurons: what runs say of each, joined without a model; text is only ever text."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
from crosslens.reports.pages import neuron_cards
from crosslens.reports.pages.build import build
from crosslens.reports.pages.runs import read_runs
from crosslens.reports.pages.tables import table_block

from ..helpers import synthetic
from ..helpers.head_runs import circuit_tables
from ..helpers.head_runs import write as write_heads
from ..helpers.neuron_runs import LABELS, PLACES, SCORE, WIDTH, tables, write

EVIL = "</script><b>&\"' {{ 7*7 }}"


def subjects(out):
    return neuron_cards.subjects(read_runs(out / "runs")[0])


def data(text):
    """The JSON of the page."""
    packed = re.search(r'id="neurons-data">(.*?)</script>', text, re.S)[1]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def measure(one, title, section=0):
    (found,) = [m for m in one["measures"] if m["title"] == title and m["section"] == section]
    return found


def test_every_number_of_a_card_stands_in_its_table(tmp_path):
    planted = tables()
    write(tmp_path, planted)
    (one,) = map(neuron_cards.data_of, subjects(tmp_path))
    assert one["places"] == [f"{a}.{b}" for a, b in PLACES]
    assert one["size"] == [4, WIDTH]
    cards = planted["cards"]
    for label in LABELS:
        for title, section, name in (
            (f"explained by {label}", 0, SCORE),
            (f"in {label}", 1, "share of tokens that activate it"),
        ):
            rows = cards[(cards["measure"] == name) & (cards["texts"] == label)]
            told = measure(one, title, section)
            for column in ("value", "lower", "upper"):
                np.testing.assert_allclose(told[column], rows[column], rtol=1e-3)
            assert told["controlName"] == "mean of the neurons of other labels"
            np.testing.assert_allclose(told["control"], rows[rows["label"] != label]["value"].mean(), rtol=1e-3)
    np.testing.assert_allclose(
        measure(one, "entropy over labels", 2)["value"], planted["neurons"]["entropy"], rtol=1e-3
    )
    (heard,) = one["heard"]
    value = planted["contexts"]["value"].iloc[0]
    assert heard["contexts"]["1.7"] == [[pytest.approx(value, rel=1e-3), "the capital↵of", " France", " is"]]
    assert heard["ngrams"]["2.40"][0][1:] == [3, "of France"]
    assert heard["sides"]["2.0"] == "below 0"
    assert one["roles"][0]["names"] == {"1.7": "English", "2.0": "English", "2.40": "French", "3.5": "French"}
    assert one["words"][0]["texts"]["3.5"] == " Paris · city"


def test_a_neuron_of_two_labels_has_one_card_and_is_no_control_of_either(tmp_path):
    planted = tables()
    for name in ("cards", "neurons"):
        twice = planted[name][planted[name]["neuron"] == 7].assign(label="French")
        planted[name] = pd.concat([planted[name], twice], ignore_index=True)
    write(tmp_path, planted)
    (one,) = map(neuron_cards.data_of, subjects(tmp_path))
    assert one["roles"][0]["names"]["1.7"] == "English, French"
    assert len(measure(one, "explained by French")["value"]) == len(PLACES)
    cards = planted["cards"]
    other = cards[(cards["measure"] == SCORE) & (cards["texts"] == "French") & (cards["neuron"] == 0)]["value"].iloc[0]
    np.testing.assert_allclose(measure(one, "explained by French")["control"], other, rtol=1e-3)


def test_conditions_runs_and_models_stay_apart(tmp_path):
    both = {name: pd.concat([table, tables(1, "BOS")[name]]) for name, table in tables().items() if name in ("cards",)}
    write(tmp_path, tables() | both)
    write(tmp_path, tables(2), "89abcdef")
    write(tmp_path, tables(3), "456789ab", subject={"fingerprint": "ffff00001111"})
    first, second = subjects(tmp_path)
    assert (first.key, second.key) == ("smollm2", "smollm2@ffff0000")
    wheres = [m.where for m in first.measures if m.title == "explained by English"]
    assert wheres == ["Texts, no BOS, run 0123abcd", "Texts, BOS", "Texts, no BOS, run 89abcdef"]


def test_without_neurons_the_page_says_so(tmp_path):
    write_heads(tmp_path, circuit_tables())
    assert tmp_path / "neuron.html" in build(tmp_path)
    text = (tmp_path / "neuron.html").read_text()
    assert "No run has shown single neurons yet" in text
    assert "neurons-data" not in text
    write(tmp_path / "old", {"neurons": pd.DataFrame({"value": [1.0]})}, fitted={})
    assert subjects(tmp_path / "old") == []


def test_the_pages_lead_there(tmp_path):
    run = write(tmp_path, tables())
    build(tmp_path)
    assert "neuron.html" in (tmp_path / "index.html").read_text()
    page = (tmp_path / f"{run.name}.html").read_text()
    assert 'href="neuron.html#smollm2"' in page
    assert 'href="neuron.html#smollm2/2.40"' in page
    block = table_block("neurons", tables()["neurons"].assign(subject="owner/<a>"))
    hrefs = [cell["href"] for row in block["rows"] for cell in row if "href" in cell]
    assert hrefs[0] == "neuron.html#owner%2F%3Ca%3E/1.7"
    assert not [cell for row in table_block("elsewhere", tables()["neurons"])["rows"] for cell in row if "href" in cell]


def test_hostile_texts_are_only_text(tmp_path):
    planted = {
        name: table.replace({"English": EVIL, " France": EVIL, "of France": EVIL}) for name, table in tables().items()
    }
    planted["contexts"]["before"] = "\x00\t" + EVIL
    write(tmp_path, planted, subject={"name": f"owner/{EVIL}"}, of_task={"title": EVIL})
    build(tmp_path)
    text = (tmp_path / "neuron.html").read_text()
    assert "<b>" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "</script><b>" not in text
    (one,) = data(text)["subjects"]
    assert one["key"] == f"owner/{EVIL}"
    assert one["heard"][0]["contexts"]["1.7"][0][1:] == ["␀⇥" + EVIL, EVIL, " is"]


def test_the_same_runs_give_the_same_page(tmp_path):
    write(tmp_path, tables())
    synthetic.write_run(tmp_path / "runs", "sinks", "passages", synthetic.sinks_tables())
    assert neuron_cards.render(subjects(tmp_path)) == neuron_cards.render(subjects(tmp_path))
