"""The cards of neurons in headless Chromium: by address, on desktop and phone; what is no card is said in a line."""

from __future__ import annotations

import pytest
from crosslens.reports.pages import neuron_cards
from crosslens.reports.pages.build import build

from ..helpers.chromium import find_chromium
from ..helpers.neuron_runs import tables, write

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on PATH: apt install chromium"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    planted = tables()
    planted["contexts"]["peak"] = " <b>France</b>"
    write(out, planted)
    write(out, tables(1), "89abcdef", subject={"name": "owner/other", "fingerprint": "ff"})
    build(out)
    return out


def text(browser, selector):
    return browser.evaluate(f"document.querySelector({selector!r}).textContent")


def go(browser, report, hash, width=1280):
    browser.open("about:blank")
    browser.open(f"{(report / neuron_cards.PAGE).as_uri()}{hash}", width=width)
    browser.wait("document.getElementById('head-title').textContent.startsWith('Neuron ')")


@pytest.mark.parametrize("width", [1280, 390])
def test_an_address_opens_its_card(report, browser, width):
    go(browser, report, "#smollm2/2.0", width)
    assert text(browser, "#head-title") == "Neuron 2.0"
    assert text(browser, "#head-subject") == "smollm2, 4 layers of 48 neurons, counted from 0"
    assert text(browser, "#head-says") == "Specific to English (Texts)"
    card = text(browser, "#head-card")
    for part in ("the capital↵of", "of France", "3×", "Paris · city", "explained by French", "rank ", "lie below 0"):
        assert part in card
    assert text(browser, "td.context mark") == " <b>France</b>"
    assert browser.evaluate("document.querySelectorAll('main b').length") == 0
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))] == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.evaluate("location.hash = '#owner%2Fother/3.5'; 0")
    browser.wait("document.getElementById('head-title').textContent === 'Neuron 3.5'")
    assert text(browser, "#table-subject") == "owner/other"
    assert "below 0" not in text(browser, "#head-card")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("1.9999", "smollm2 has no neuron 1.9999: it has 4 layers of 48 neurons, counted from 0."),
        ("40.1", "smollm2 has no neuron 40.1: it has 4 layers of 48 neurons, counted from 0."),
        ("1.8", "No run of smollm2 shows neuron 1.8: cards are of the most specific ones, listed below."),
        ("x", "“x” names no neuron: an address ends in LAYER.NEURON, such as 1.7."),
    ],
)
def test_what_is_no_card_is_said_in_one_line(report, browser, place, said):
    go(browser, report, f"#smollm2/{place}")
    assert text(browser, "#head-says") == said
    assert text(browser, "#head-card") == ""
    assert browser.errors == []


def test_the_table_filters_by_label_and_leads_to_cards(report, browser):
    go(browser, report, "#smollm2/1.7")
    rows = "[...document.querySelectorAll('#head-table tbody tr')]"
    assert browser.evaluate(f"{rows}.length") == 4
    browser.evaluate("box = document.getElementById('table-filter'); box.value = 'French'; box.oninput(); 0")
    assert sorted(browser.evaluate(f"{rows}.map(row => row.cells[0].textContent)")) == ["2.40", "3.5"]
    browser.evaluate("document.querySelector('#head-table tbody a').click()")
    browser.wait("document.getElementById('head-title').textContent !== 'Neuron 1.7'")
    assert browser.errors == []
