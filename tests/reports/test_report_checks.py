"""The checks of a whole report: nothing is found on the pages of every analysis; each fault is where it is planted."""

from __future__ import annotations

from importlib import import_module

import plotly.graph_objects as go
import pytest
from crosslens.analyses import find_analyses
from crosslens.reports import charts
from crosslens.reports.charts.style import meta_of
from crosslens.reports.pages.build import build, show_page
from crosslens.reports.pages.page import run_figures
from crosslens.reports.pages.runs import read_run

from ..helpers import planted_report, report_checks
from ..helpers.chromium import find_chromium

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no chromium on PATH: apt install chromium")
# One page of each kind is looked at on a phone, on paper and with axe too, which takes longest.
WHOLE = ("index.", "claims.", "head.", "sinks.smollm2.passages", "information_flow", "head_divergence", "image_lens")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = planted_report.write(tmp_path_factory.mktemp("report"))
    build(out)
    return out


@pytest.mark.browser
@needs_chromium
def test_nothing_is_wrong_with_any_page(report, browser):
    pages = sorted(report.glob("*.html"))
    assert len(pages) > len(find_analyses())
    found = {p.name: report_checks.faults(browser, p, whole=p.name.startswith(WHOLE)) for p in pages}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_claim_has_a_figure_of_its_own_page_that_names_it(report):
    """And every figure names claims that there are."""
    stated = {name: {s.name for s in getattr(import_module(at), "CLAIMS", ())} for name, at in find_analyses().items()}
    for path in sorted((report / "runs").glob("*.planted.*")):
        run = read_run(path)
        named = {claim for figure in run_figures(run)[0].values() for claim in meta_of(figure).get("claims", ())}
        judged = {claim["name"] for claim in run.claims if claim["verdict"] != "not testable"}
        assert judged <= named, (path.name, judged - named)
        assert named <= stated[run.record["analysis"]] | {"solved", "twins differ", "gradients"}, path.name


def figure(height: int = 400, **layout) -> go.Figure:
    drawn = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], name="line"))
    return drawn.update_layout(height=height, margin={"l": 40, "r": 10, "t": 40, "b": 40}, **layout)


def stretched() -> go.Figure:
    lies = {"x": 0, "y": 0, "sizex": 1, "sizey": 1, "xref": "x", "yref": "y", "sizing": "stretch"}
    return figure().add_layout_image(source=f"data:image/png;base64,{planted_report.PICTURE}", **lies)


def crowded() -> go.Figure:
    """Words over each other, outside, wider than their cells; ticks over each other; a legend that eats the plot."""
    drawn = figure(260, legend={"orientation": "h"}, showlegend=True)
    for text, x in (("one title over", 0.1), ("another title", 0.12), ("far outside", 1.05)):
        drawn.add_annotation(text=text, x=x, y=1, xref="paper", yref="paper", xanchor="left", showarrow=False)
    drawn.add_scatter(x=[0, 40], y=[0, 0], text=["a long word", "b"], mode="text", name="a_b")
    for name in range(9):
        drawn.add_scatter(x=[0, 1], y=[0, name], name=f"a series of a long name, number {name}")
    return drawn.update_xaxes(tickvals=[0, 0.001], ticktext=["first tick", "second tick"], tickangle=0)


FAULTS = {
    "stretched": "a cell of its picture is",
    "over": "lies over",
    "outside": "lies outside the figure",
    "wide word": "is wider than its cell",
    "ticks": "the ticks",
    "bands": 'its caption says "Bands", which is not drawn',
    "control": 'its caption names "random heads", which is no trace',
    "img": "the picture",
    "late": "the first figure begins at 15",
    "open": "5 figures stand open",
    "tall": "px tall with folds closed",
    "heading": '"a_heading" is a heading with _',
    "legend": '"a_b" is a heading with _',
    "claim": 'the claim "Heads matter." shows no control',
    "paper": "px of 680 on paper",
    "small": "px high on a phone",
    "phone": "px wide on a phone",
    "message": "message: ",
    "request": "asks for http://example.org/x.js",
    "axe": "accessibility: image-alt",
}
SPOILED = f"""
<style>@media print {{ .plot {{ margin-left: 300px }} }} .long {{ height: 4000px; width: 500px }}</style>
<table class="claims"><tr><th>Heads matter.</th>
<td><svg class="axis" width="9" height="9"></svg><span class="numbers">1</span></td></tr></table>
<h2>a_heading</h2><img src="data:image/png;base64,{planted_report.PICTURE}" width="90" height="30">
<script>console.error("broken")</script><script src="http://example.org/x.js"></script>
<div class="long">.</div></main>"""


@pytest.mark.browser
@needs_chromium
def test_each_fault_is_found_where_it_is_planted(browser, tmp_path):
    said = "Bands: 95 %. Dotted, the control: random heads."
    drawn = {"stretched": stretched(), "crowded": crowded(), "caption": charts.captioned(figure(), "T", said, "t")}
    path = show_page(drawn | {"four": figure(), "five": figure()}, tmp_path / "bad.html", "bad")
    text = path.read_text("utf-8").replace("</main>", SPOILED)
    top = '<main><div style="height:1500px">.</div>'
    path.write_text(text.replace("<main>", top).replace("<body", '<body class="run"'), "utf-8")
    found = report_checks.faults(browser, path)
    missed = {name: words for name, words in FAULTS.items() if not any(words in line for line in found)}
    assert missed == {}, found
