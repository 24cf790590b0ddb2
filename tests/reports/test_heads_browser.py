"""The cards of heads in headless Chromium: by address, by a click on a map; the table sorts, filters, opens."""

from __future__ import annotations

import pytest
from crosslens.reports.pages import heads
from crosslens.reports.pages.build import build

from ..helpers.chromium import find_chromium
from ..helpers.head_runs import EFFECT, circuit_tables, write

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on PATH: apt install chromium"),
]
OWNER = "owner/<b>name"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write(out, circuit_tables(shape=(10, 9)), subject={"n_layers": 10, "n_heads": 9})
    write(out, circuit_tables(seed=1), key="89abcdef", subject={"name": OWNER, "fingerprint": "ff"})
    build(out)
    return out


def text(browser, selector):
    return browser.evaluate(f"document.querySelector({selector!r}).textContent")


def go(browser, report, hash, width=1200):
    browser.open("about:blank")
    browser.open(f"{(report / heads.PAGE).as_uri()}{hash}", width=width)
    browser.wait("document.querySelector('#head-map .main-svg') !== null || !window.Plotly")


@pytest.mark.parametrize("width", [1200, 390])
def test_an_address_opens_its_card(report, browser, width):
    go(browser, report, "#smollm2/2.1", width)
    assert text(browser, "#head-title") == "Head 2.1"
    assert text(browser, "#head-says") == "mover on Ioi, BOS"
    card = text(browser, "#head-card")
    for part in ("Role by rule", EFFECT, "rank ", " of 90", "at least 0.2 of its attention", "corrected for all heads"):
        assert part in card
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))] == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    for hash, title in (
        ("#smollm2/mlp.3", "MLP 3"),
        (f"#{OWNER}/1.0", "Head 1.0"),
        ("#owner%2F%3Cb%3Ename/1.2", "Head 1.2"),
    ):
        browser.evaluate(f"location.hash = {hash!r}; 0")
        browser.wait(f"document.getElementById('head-title').textContent === {title!r}")
    assert OWNER in browser.evaluate("document.title")
    assert browser.evaluate("document.querySelectorAll('main b').length") == 0
    browser.evaluate("location.hash = '#smollm2/99.9'; 0")
    browser.wait("document.getElementById('head-says').textContent.includes('says anything of 99.9')")
    assert browser.errors == []


def test_a_click_on_a_cell_opens_its_card(report, browser):
    go(browser, report, "#smollm2/0.0")
    browser.evaluate("plot = document.getElementById('head-map'); plot.scrollIntoView(); 0")
    browser.evaluate("({ xaxis, yaxis } = plot._fullLayout); box = plot.getBoundingClientRect(); 0")
    place = {
        "x": browser.evaluate("box.left + xaxis._offset + xaxis.l2p(3)"),
        "y": browser.evaluate("box.top + yaxis._offset + yaxis.l2p(2)"),
    }
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", **place)
    for kind in ("mousePressed", "mouseReleased"):
        browser.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
    browser.wait("document.getElementById('head-title').textContent === 'Head 3.2'")
    assert browser.evaluate("location.hash") == "#smollm2/3.2"


def test_what_maps_of_other_pages_hand_over(report, browser):
    go(browser, report, "#smollm2/0.0")
    for custom, opened in (('"2.1"', "2.1"), ('["mlp.2", 5]', "mlp.2"), ('"<b>"', ""), ("null", ""), ("7.5", "7.5")):
        event = f"{{ points: [{{ customdata: {custom} }}] }}"
        assert browser.evaluate(f"crosslensOpenHead({event}, 'smollm2')") == opened
    assert browser.evaluate("crosslensOpenHead({}, 'smollm2')") == ""
    assert browser.evaluate("crosslensOpenHead({ points: [{ customdata: '2.1' }] }, '')") == ""


def test_the_table_sorts_filters_and_opens(report, browser):
    go(browser, report, "#smollm2/0.0")
    rows = "[...document.querySelectorAll('#head-table tbody tr')]"
    values = f"{rows}.map(row => Number(row.cells[2].textContent.replace('−', '-')))"
    assert browser.evaluate(f"{rows}.length") == 20
    assert browser.evaluate("document.querySelectorAll('#head-table tbody tr:first-child > *').length") <= 12
    by_size = browser.evaluate(values)
    assert [abs(v) for v in by_size] == sorted(map(abs, by_size), reverse=True)
    browser.evaluate("document.getElementById('table-more').click()")
    assert browser.evaluate(f"{rows}.length") == 90
    for way, ordered in (("ascending", sorted), ("descending", lambda v: sorted(v, reverse=True))):
        browser.evaluate("document.querySelector('#head-table th[aria-sort] button').click()")
        assert browser.evaluate("document.querySelector('#head-table th[aria-sort]').ariaSort") == way
        found = browser.evaluate(values)
        assert found == ordered(found)
    browser.evaluate("box = document.getElementById('table-filter'); box.value = '3.'; box.oninput(); 0")
    assert sorted(browser.evaluate(f"{rows}.map(row => row.cells[0].textContent)")) == [f"3.{i}" for i in range(9)]
    browser.evaluate("box.value = 'mover'; box.oninput(); 0")
    assert browser.evaluate(f"{rows}.map(row => row.cells[0].textContent)") == ["2.1"]
    browser.evaluate("document.querySelector('#head-table tbody a').click()")
    browser.wait("document.getElementById('head-title').textContent === 'Head 2.1'")
    assert browser.errors == []


def test_a_click_on_a_map_of_a_run_leads_to_the_card(report, browser):
    """Where the page of a run hands clicks over, and its maps say which cells are heads."""
    (page,) = report.glob("circuits.ioi.0123abcd.html")
    if 'data-address="head"' not in page.read_text():
        pytest.skip("this page has no map that leads to cards")
    browser.open(f"{page.as_uri()}?all")
    browser.evaluate("plot = document.querySelector('.plot[data-address=head]'); plot.scrollIntoView(); 0")
    browser.wait("plot.querySelector('.main-svg') !== null")
    browser.evaluate("plot.emit('plotly_click', { points: [{ customdata: '2.1' }] }); 0")
    browser.wait("location.pathname.endsWith('head.html')")
    browser.wait("document.getElementById('head-title')?.textContent === 'Head 2.1'")


def test_two_runs_side_by_side_are_drawn(report, browser):
    (page,) = report.glob("compare-*.html")
    for width in (1200, 390):
        browser.open(f"{page.as_uri()}?all", width=width)
        assert browser.errors == []
        assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("[...document.querySelectorAll('.plot:not(:has(.main-svg))')].length") == 0
        assert browser.evaluate("document.querySelectorAll('svg.forest circle').length") == 1
