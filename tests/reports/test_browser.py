"""Every page in headless Chromium: no error, no request but to its own files, a figure in every div."""

from __future__ import annotations

import pandas as pd
import pytest
from crosslens.reports import charts
from crosslens.reports.pages.build import build, show_page

from ..helpers import synthetic
from ..helpers.chromium import Browser, find_chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on PATH: apt install chromium"),
]
LENSES, SINKS = "lenses.smollm2.facts.0123abcd.html", "sinks.smollm2.passages.0123abcd.html"
PAGES = ["index.html", "claims.html", LENSES, SINKS, "default.smollm2.ioi.0123abcd.html", "show.html"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = synthetic.write_report(tmp_path_factory.mktemp("report"))
    tables = {name: synthetic.sinks_tables()[name] for name in ("heads", "dimensions")}
    synthetic.write_run(out / "runs", "default", "ioi", tables)
    build(out)
    rows = synthetic.lenses_tables()["grid"].query("example == 'facts-0001'")
    figure = charts.captioned(charts.token_grid(pd.DataFrame(rows)), "Grid", "One prompt.", "grid")
    show_page({"grid": figure}, out / "show.html", "lenses: one prompt")
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def test_the_browser_notices_errors_and_requests(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<script>throw Error("broken")</script><img src="http://example.org/x.png">')
    browser.open(path.as_uri())
    assert "broken" in str(browser.errors)
    assert "http://example.org/x.png" in browser.requests


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_drawn_without_error_or_request(report, browser, name, width):
    browser.open(f"{(report / name).as_uri()}?all", width=width)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    ids = browser.evaluate("[...document.querySelectorAll('.plot:not(:has(.main-svg))')].map(div => div.id)")
    assert ids == []
    asked = [url.rpartition("/")[2] for url in browser.requests]
    assert ("plotly.min.js" in asked) == (name != "claims.html")
    count = browser.evaluate("document.querySelectorAll('.plot').length")
    assert count > 0 or name == "claims.html"
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_are_drawn_on_the_way_down(report, browser):
    browser.open((report / SINKS).as_uri())
    count = browser.evaluate("document.querySelectorAll('.plot').length")
    assert browser.evaluate("document.querySelectorAll('.plot:has(.main-svg)').length") < count
    for number in range(count):
        browser.evaluate(f"div = document.querySelectorAll('.plot')[{number}]; div.scrollIntoView(); 0")
        browser.wait("div.querySelector('.main-svg') !== null")
    assert browser.errors == []


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
    for part in ("BOS", "layer 5", "head 3", "attention", "95 % interval", "n = 64 in 12 groups"):
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
