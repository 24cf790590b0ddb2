"""Every page in headless Chromium: no error, no request but to its own files, a figure in every div."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pandas as pd
import pytest
from crosslens.reports import charts
from crosslens.reports.pages.build import build, show_page

from ..helpers import report_checks, synthetic
from ..helpers.chromium import find_chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on PATH: apt install chromium"),
]
LENSES, SINKS = "lenses.smollm2.facts.0123abcd.html", "sinks.smollm2.passages.0123abcd.html"
PAGES = ["default.smollm2.ioi.0123abcd.html", "glossary.html", "show.html"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    found = synthetic.findings(
        {"text": "Heads from layer 3 on attend to sinks: 75 % of their attention.", "heads": "23.3"},
        {"text": "No difference with and without BOS.", "figure": "received", "state": "open"},
    )
    synthetic.write_run(out / "runs", "sinks", "passages", {**synthetic.sinks_tables(), "findings": found})
    synthetic.write_run(out / "runs", "lenses", "facts", synthetic.lenses_tables())
    tables = {name: synthetic.sinks_tables()[name] for name in ("heads", "dimensions")}
    synthetic.write_run(out / "runs", "default", "ioi", tables)
    build(out)
    rows = synthetic.lenses_tables()["grid"].query("example == 'facts-0001'")
    figure = charts.captioned(charts.token_grid(pd.DataFrame(rows)), "Grid", "One prompt.", "grid")
    show_page({"grid": figure}, out / "show.html", "lenses: one prompt")
    return out


def test_the_browser_notices_errors_and_requests(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<script>throw Error("broken")</script><img src="http://example.org/x.png">')
    browser.open(path.as_uri())
    assert "broken" in str(browser.errors)
    assert "http://example.org/x.png" in browser.requests


@pytest.mark.parametrize("name", PAGES)
def test_a_page_without_figures_of_its_own_and_one_prompt_are_in_order(report, browser, name):
    """The pages of analyses are looked at in test_report_checks.py."""
    assert report_checks.faults(browser, report / name, whole=False) == []
    asked = [url.rpartition("/")[2] for url in browser.requests]
    assert ("plotly.min.js" in asked) == (name != "glossary.html")


def test_figures_are_drawn_on_the_way_down_and_in_folds_when_they_open(report, browser):
    browser.open((report / SINKS).as_uri(), width=1400, height=1000)
    count = browser.evaluate("document.querySelectorAll('.plot').length")
    assert browser.evaluate("document.querySelectorAll('.plot:has(.main-svg)').length") < count
    assert browser.evaluate("document.querySelectorAll('details.fold .main-svg').length") == 0
    browser.evaluate("document.querySelectorAll('details.fold').forEach(fold => fold.open = true)")
    for number in range(count):
        browser.evaluate(f"div = document.querySelectorAll('.plot')[{number}]; div.scrollIntoView(); 0")
        browser.wait("div.querySelector('.main-svg') !== null")
    assert browser.errors == []


def test_the_first_screen_holds_the_finding_its_figure_and_a_prompt(report, browser):
    browser.open((report / SINKS).as_uri(), width=1400, height=1000)
    place = "document.querySelector('{}').getBoundingClientRect()"
    assert browser.evaluate(place.format("figure.key .plot") + ".top") < 400
    assert browser.evaluate(place.format("aside .prompt") + ".bottom") < 1000


def test_a_link_to_a_figure_in_a_fold_opens_it(report, browser):
    browser.open(f"{(report / SINKS).as_uri()}#fig-magnitude-box", width=1400)
    browser.wait("document.querySelector('#fig-magnitude .main-svg') !== null")
    assert browser.evaluate("document.getElementById('fig-magnitude').closest('details').open")


@pytest.mark.parametrize(("size", "width"), [("page", 700), ("one", 317), ("two", 653)])
def test_a_saved_picture_holds_its_title_n_and_run(report, browser, size, width):
    browser.open((report / SINKS).as_uri(), width=1400)
    browser.evaluate("saved = []; keep = function () { saved.push([this.download, this.href]) }; 0")
    browser.evaluate("HTMLAnchorElement.prototype.click = keep; 0")
    browser.evaluate(f"document.querySelector('.export select').value = '{size}'")
    browser.evaluate("document.querySelector('[data-save=svg]').dispatchEvent(new Event('click', { bubbles: true }))")
    browser.wait("saved.length === 1")
    name, address = browser.evaluate("saved[0]")
    assert name == "sinks.smollm2.passages.0123abcd-sink-share.svg"
    picture = unquote(address)
    for part in ("How much attention each head gives", "n = 64 in 12 groups", "sinks.smollm2"):
        assert part in picture.replace("\u00a0", " ")
    found = re.search(r'<svg[^>]* width="(\d+)"', picture)
    assert found
    assert int(found[1]) >= width if size == "page" else int(found[1]) == width


def test_a_printed_page_keeps_whole_figures(report, browser):
    browser.open(f"{(report / SINKS).as_uri()}?all", width=1400)
    browser.evaluate("window.dispatchEvent(new Event('beforeprint')); 0")
    wide = "[...document.querySelectorAll('.content .main-svg, .content .colorbar, .content .cbbg')]"
    box = "one.getBoundingClientRect().right - one.closest('.plot').getBoundingClientRect().left"
    browser.wait(f"{wide}.every(one => {box} <= 681)")
    browser.evaluate("window.dispatchEvent(new Event('afterprint')); 0")
    browser.wait(f"{wide}.some(one => {box} > 681)")


def test_at_night_figures_are_dark_too(report, browser):
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    browser.send("Emulation.setEmulatedMedia", features=[feature])
    try:
        browser.open((report / SINKS).as_uri(), width=1400)
        ground = "getComputedStyle(document.querySelector('.plot .main-svg')).backgroundColor"
        assert browser.evaluate(ground) == browser.evaluate("getComputedStyle(document.body).backgroundColor")
    finally:
        browser.send("Emulation.setEmulatedMedia", features=[])


def test_a_click_on_a_heading_sorts_and_a_search_finds(report, browser):
    browser.open((report / SINKS).as_uri(), width=1400)
    browser.evaluate("table = document.querySelector('table.sortable'); table.closest('details').open = true")
    browser.evaluate("heading = [...table.tHead.querySelectorAll('button')].find(one => one.innerText === 'value'); 0")
    column = "[...table.tBodies[0].rows].map(row => Number(row.cells[heading.parentElement.cellIndex].dataset.value))"
    browser.evaluate("heading.click(); heading.click()")
    values = browser.evaluate(column)
    assert values == sorted(values)
    browser.open((report / "index.html").as_uri(), width=1400)
    for typed, left in (("23.3", 1), ("2402.17762", 1), ("nowhere", 0), ("", 3)):
        browser.evaluate(f"search.value = '{typed}'; search.dispatchEvent(new Event('input')); 0")
        assert browser.evaluate("document.querySelectorAll('#runs article:not([hidden])').length") == left


@pytest.mark.parametrize("name", [LENSES, "show.html"])
def test_hostile_tokens_are_shown_as_they_are(report, browser, name):
    browser.open(f"{(report / name).as_uri()}?all")
    plot = "[...document.querySelectorAll('.plot')].at(-1)"
    shown = browser.evaluate(f"[...{plot}.querySelectorAll('.xtick text')].map(t => t.textContent)")
    assert shown == ["<s>", "<b>", "&", '"', "↵", "🙂", "שלום", "␣the", "␣the", "</script>", "%{x}", "a⇥b"]
    cells = browser.evaluate(f"[...{plot}.querySelectorAll('.textpoint text')].map(t => t.textContent)")
    assert cells[:12] == [t if len(t) < 10 else "</script…" for t in shown]
    assert browser.evaluate(f"{plot}.querySelectorAll('.xtick b, .xtick script, .textpoint b').length") == 0


def test_hover_says_where_and_how_much(report, browser):
    browser.open(f"{(report / SINKS).as_uri()}?all")
    browser.evaluate("plot = document.getElementById('fig-sink-share'); plot.scrollIntoView()")
    browser.evaluate("({ xaxis, yaxis } = plot._fullLayout); box = plot.getBoundingClientRect(); 0")
    x = browser.evaluate("box.left + xaxis._offset + xaxis.l2p(5)")
    y = browser.evaluate("box.top + yaxis._offset + yaxis.l2p(3)")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    browser.wait("plot.querySelector('.hovertext') !== null")
    said = browser.evaluate("plot.querySelector('.hoverlayer').textContent")
    for part in ("BOS", "layer 5", "head 3", "attention", "95 %: ", "n = 64 in 12 groups"):
        assert part in said.replace("\u00a0", " ")


def test_nothing_can_be_sent_away(report, browser):
    browser.open(f"{(report / SINKS).as_uri()}?all")
    titles = browser.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert titles
    assert not any("share" in str(t).lower() or "cloud" in str(t).lower() for t in titles)
    gone = browser.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert gone == "refused"


def test_a_page_without_its_plotly_file_says_so(report, browser, tmp_path):
    (tmp_path / "alone.html").write_bytes((report / "show.html").read_bytes())
    browser.send("Page.navigate", url=f"{(tmp_path / 'alone.html').as_uri()}?all")
    browser.wait("document.body && document.body.innerText.includes('needs the file plotly.min.js')")
