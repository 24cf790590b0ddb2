"""Pages from run directories: what is on them, what is refused, what a second build changes."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from html import unescape
from html.parser import HTMLParser

import pandas as pd
import pytest
from crosslens.analyses.common import stats
from crosslens.data.errors import ReportError
from crosslens.reports import charts
from crosslens.reports.charts import style
from crosslens.reports.figures import default, lenses
from crosslens.reports.pages import page, unchanged
from crosslens.reports.pages.build import build, show_page
from crosslens.reports.pages.page import drawer, in_words, unique_slugs
from crosslens.reports.pages.runs import read_run

from ..helpers import synthetic

EVIL = '</script><script>alert("1")</script><img src=x onerror=alert(2)>\'"&{{ 7*7 }}<b>'


def unpacked(data):
    """A figure from the text of its script element."""
    return json.loads(zlib.decompress(base64.b64decode(data)))


class Page(HTMLParser):
    """Elements with their attributes, the visible text, and the JSON of the figures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.json, self._inside = "", [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._packed = ""
        self._inside = "figure" if tag == "script" and "data-packed" in dict(attrs) else tag

    def handle_endtag(self, tag):
        if self._inside == "figure":
            self.json.append(unpacked(self._packed))
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "figure":
            self._packed += data  # which comes in pieces
        elif self._inside not in ("script", "style"):
            self.text += data

    def addresses(self):
        return [a[k] for _, a in self.elements for k in ("src", "href", "action", "data") if a.get(k)]


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = synthetic.write_report(tmp_path_factory.mktemp("report"))
    build(out)
    return out


def small(out):
    """A report of two runs with little to draw."""
    sinks, lenses = synthetic.sinks_tables(), synthetic.lenses_tables()
    for analysis, task, name, tables in (
        ("sinks", "passages", "dimensions", sinks),
        ("lenses", "facts", "accuracy", lenses),
    ):
        kept = {name: tables[name], "claims": tables["claims"]}
        synthetic.write_run(out / "runs", analysis, task, kept)
    return out


def pages(out):
    return sorted(out.glob("*.html"))


def of_runs(written):
    """The pages of runs among those written."""
    return [path for path in written if path.stem.endswith("0123abcd")]


def test_a_page_per_run_a_gallery_and_the_claims(tmp_path):
    out = small(tmp_path)
    written = build(out)
    assert [path.name for path in written][:2] == ["index.html", "claims.html"]
    assert sorted(written) == pages(out)
    assert len(of_runs(written)) == 2
    assert "glossary.html" in [path.name for path in written]
    assert (out / "plotly.min.js").stat().st_size > 1e6


def test_no_page_asks_for_anything_but_its_own_files(report):
    for path in pages(report):
        page = read(path)
        for address in page.addresses():
            known = address == "data:," or address.startswith("https://arxiv.org/abs/")  # followed only by a click
            assert not re.match(r"(?i)[a-z]+:|//", address) or known, (path.name, address)
            if not address.startswith(("#", "data:", "https:")):
                assert (report / address.partition("#")[0]).is_file(), (path.name, address)
        styles = re.findall(r"<style>(.*?)</style>", path.read_text("utf-8"), re.S)
        assert not any("url(" in style or "@import" in style for style in styles)


def figure(text, name):
    """The HTML of one figure of a page."""
    return re.search(rf'<figure id="fig-{name}-box".*?</figure>', text, re.S)[0]


def test_every_figure_has_its_data_caption_table_and_export_and_the_page_its_record(report):
    text = (report / "sinks.smollm2.passages.0123abcd.html").read_text("utf-8")
    page = Page(text)
    plots = [a for _, a in page.elements if (a.get("class") or "").startswith("plot")]
    assert len(plots) == len(page.json) == 14
    assert len({plot["id"] for plot in plots}) == 14
    figures = re.findall(r"<figure .*?</figure>", text, re.S)
    assert len(figures) == 14
    for one in figures:
        for part in (
            "<figcaption>",
            ".csv",
            ".parquet",
            "SVG",
            "PNG 2×",
            "copy caption",
            "n = 64 in 12 groups · sinks",
        ):
            assert part in one
    for part in ("9f3c2a71b04d", "crosslens run sinks", "were left out", "64 passages of", "What papers claim"):
        assert part in page.text


def test_four_figures_stand_open_and_the_others_are_folded(report):
    text = (report / "sinks.smollm2.passages.0123abcd.html").read_text("utf-8")
    opened = re.sub(r'<details class="fold".*', "", text, flags=re.S)
    assert opened.count("<figure ") == 4


def test_a_table_shows_the_largest_rows_of_its_figure_in_words(report):
    text = (report / "sinks.smollm2.passages.0123abcd.html").read_text("utf-8")
    first = figure(text, "sink-share")
    assert "1,080 rows of 2,160; the 10 largest here" in first
    assert first.count("<tr>") == 11
    values = [float(x) for x in re.findall(r'<td data-value="(0\.9[\d.]+)"', first)]
    assert values
    assert "first_share" not in first
    assert "In all rows: condition" not in first, "two conditions are two values"
    for headings in re.findall(r"<thead>.*?</thead>", text, re.S):
        assert "_" not in re.sub(r"<[^>]*>", "", headings)


def test_no_table_stands_twice_on_a_page(report):
    for path in pages(report):
        ids = re.findall(r'<details class="table" id="([^"]+)"', path.read_text("utf-8"))
        assert len(ids) == len(set(ids))
        bodies = re.findall(r"<tbody>(.*?)</tbody>", path.read_text("utf-8"), re.S)
        assert len(bodies) == len(set(bodies)), path.name


def test_claims_are_gathered_by_subject_with_words_for_verdicts(report):
    page = read(report / "claims.html")
    for part in ("smollm2", "holds: 2", "fails: 1", "undecided: 1", "Sinks exist only with a BOS."):
        assert part in page.text
    links = [a["href"] for tag, a in page.elements if tag == "a" and "sinks" in (a.get("href") or "")]
    assert links == ["sinks.smollm2.passages.0123abcd.html#claims"] * 3


def test_downloads_equal_the_tables(report):
    for run in (report / "runs").iterdir():
        for source in (run / "tables").iterdir():
            table = pd.read_parquet(source)
            copy = report / "downloads" / run.name / source.name
            assert copy.read_bytes() == source.read_bytes()
            csv = pd.read_csv(copy.with_suffix(".csv"), keep_default_na=False, na_values={"value": [""]})
            assert list(csv.columns) == list(table.columns)
            assert len(csv) == len(table)
            if "value" in table:
                pd.testing.assert_series_equal(csv["value"], table["value"], check_dtype=False, rtol=1e-12)


def test_the_same_runs_give_the_same_bytes(report, tmp_path):
    shutil.copytree(report / "runs", tmp_path / "runs")
    build(tmp_path)
    for path in pages(report):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_second_build_replaces_nothing_that_is_the_same(tmp_path):
    small(tmp_path)
    written = build(tmp_path)
    before = [path.stat().st_mtime_ns for path in written]
    build(tmp_path)
    assert [path.stat().st_mtime_ns for path in written] == before
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("changed", ["a table", "a page is gone", "a page was edited", "a run more", "static code"])
def test_nothing_is_drawn_twice_unless_something_changed(tmp_path, monkeypatch, changed):
    out = small(tmp_path)
    pages, drawn, plain = build(out), [], page.run_figures
    monkeypatch.setattr(page, "run_figures", lambda run: (drawn.append(run.name), plain(run))[1])
    before = {path: path.read_bytes() for path in pages}
    assert build(out) == pages
    assert drawn == []
    if changed == "a table":
        os.utime(next(out.glob("runs/*/tables/*.parquet")))
    elif changed == "a page is gone":
        (out / "claims.html").unlink()
    elif changed == "a page was edited":
        (out / "claims.html").write_text("mine")
    elif changed == "a run more":
        (first,) = list(out.glob("runs/*"))[:1]
        shutil.copytree(first, first.with_name("another"))
    else:
        monkeypatch.setattr(unchanged, "PACKAGE", tmp_path)
    build(out)
    assert drawn
    if changed != "a run more":
        assert {path: path.read_bytes() for path in pages} == before


def evil(value):
    """Every text of a record, keys included, replaced by hostile text."""
    if isinstance(value, dict):
        return {k: evil(v) for k, v in value.items()} | {EVIL: EVIL}
    if isinstance(value, list):
        return [evil(v) for v in value]
    return EVIL if isinstance(value, str) else value


def test_hostile_text_is_only_text(tmp_path):
    tables = synthetic.lenses_tables()
    tables["claims"] = synthetic.claims((EVIL, EVIL, EVIL, EVIL))
    for column in ("token", "top", "example"):
        tables["grid"][column] += EVIL
    tables["lens"].loc[tables["lens"]["subset"] != "all", "subset"] += EVIL
    tables["accuracy"]["control"] += EVIL
    tables["lens"][EVIL] = EVIL
    run = synthetic.write_run(tmp_path / "runs", "lenses", "facts", tables)
    fixed = {"schema": 1, "status": "complete", "analysis": "lenses"}
    record = evil(synthetic.record(run.name, "lenses", "facts")) | fixed
    (run / "record.json").write_text(json.dumps(record))
    for path in build(tmp_path):
        page = read(path)
        text = path.read_text("utf-8")
        scripts = [a for tag, a in page.elements if tag == "script"]
        assert text.count("<script") == len(scripts), "no script within a script"
        assert len([a for a in scripts if "data-packed" in a]) == len(page.json)
        assert "alert(" not in "".join(re.findall(r"<script[^>]*>(.*?)</script>", text, re.S))
        assert "<img" not in text
        assert not any(k.startswith("on") for _, attributes in page.elements for k in attributes)
        assert "could not be drawn" not in text
        # The template language is not run in it either; two pages are of no run.
        assert path.name in ("glossary.html", "head.html", "neuron.html") or EVIL in page.text


def test_a_token_of_the_grid_reaches_plotly_escaped(report):
    page = read(report / "lenses.smollm2.facts.0123abcd.html")
    labels = next(f["layout"]["xaxis"]["ticktext"] for f in page.json if "🙂" in str(f["layout"].get("xaxis")))
    assert [unescape(label) for label in labels] == [
        *("<s>", "<b>", "&", '"', "↵", "🙂", "שלום", "␣the", "␣the", "</script>", "%{x}", "a⇥b")
    ]
    assert not any("<" in label for label in labels)


def broken(kind, run, outside):
    record = run / "record.json"
    if kind == "running":
        record.write_text(record.read_text().replace('"complete"', '"running"'))
    elif kind == "cut":
        record.write_text(record.read_text()[:100])
    elif kind == "no record":
        record.unlink()
    elif kind == "no object":
        record.write_text("[]")
    elif kind == "schema":
        record.write_text(record.read_text().replace('"schema": 1', '"schema": 2'))
    elif kind == "subject is a text":
        record.write_text(json.dumps({**json.loads(record.read_text()), "subject": "x"}))
    elif kind == "table cut":
        table = run / "tables" / "dimensions.parquet"
        table.write_bytes(table.read_bytes()[:-100])
    elif kind == "table links out":
        table = run / "tables" / "dimensions.parquet"
        shutil.move(table, outside)
        table.symlink_to(outside)
    elif kind == "record links out":
        shutil.move(record, outside)
        record.symlink_to(outside)
    elif kind == "tables link out":
        shutil.move(run / "tables", outside)
        (run / "tables").symlink_to(outside)
    elif kind == "run links out":
        shutil.move(run, outside)
        run.symlink_to(outside)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("running", "not complete"),
        ("cut", "cannot be read"),
        ("no record", "record.json is missing"),
        ("no object", "not of schema 1"),
        ("schema", "not of schema 1"),
        ("subject is a text", "lacks one of subject"),
        ("table cut", "table dimensions cannot be read"),
        ("table links out", "leaves the run directory"),
        ("record links out", "leaves the run directory"),
        ("tables link out", "leaves the run directory"),
        ("run links out", "not a run directory"),
    ],
)
def test_a_broken_run_is_left_out_with_a_note(tmp_path, kind, said):
    out = small(tmp_path / "out")
    broken(kind, out / "runs" / "sinks.smollm2.passages.0123abcd", tmp_path / "outside")
    assert len(of_runs(build(out))) == 1
    text = read(out / "index.html").text
    assert "sinks.smollm2.passages.0123abcd: " in text
    assert said in text
    assert not list((out / "downloads").glob("sinks*"))


def test_a_file_or_a_reserved_name_among_the_runs_is_left_out(tmp_path):
    out = small(tmp_path)
    (out / "runs" / "notes.txt").write_text("x")
    shutil.copytree(out / "runs" / "sinks.smollm2.passages.0123abcd", out / "runs" / "index")
    assert len(of_runs(build(out))) == 2
    assert "notes.txt: not a run directory" in read(out / "index.html").text
    assert "index: not a run" in read(out / "index.html").text


def test_no_runs_directory_is_one_clear_line(tmp_path):
    with pytest.raises(ReportError, match="no runs at"):
        build(tmp_path)


def test_no_run_yet_is_a_page(tmp_path):
    (tmp_path / "runs").mkdir()
    assert of_runs(build(tmp_path)) == []
    assert "No complete run yet" in read(tmp_path / "index.html").text


def test_where_nothing_can_be_written_is_one_clear_line(tmp_path):
    out = small(tmp_path)
    (out / "downloads").write_text("in the way")
    with pytest.raises(ReportError, match="cannot be written"):
        build(out)


def test_an_analysis_without_figures_gets_default_ones(tmp_path):
    heads = synthetic.sinks_tables()["heads"]
    run = synthetic.write_run(tmp_path / "runs", "divergence", "ioi", {"heads": heads})
    build(tmp_path)
    page = read(tmp_path / f"{run.name}.html")
    assert len(page.json) == 3  # one map per measure
    assert "heads: sink share" in page.text


def test_figures_that_fail_leave_the_tables(tmp_path, monkeypatch):
    def fails(tables):
        raise KeyError("condition")

    monkeypatch.setattr("crosslens.reports.figures.sinks.figures", fails)
    run = synthetic.write_run(tmp_path / "runs", "sinks", "passages", synthetic.sinks_tables())
    build(tmp_path)
    page = read(tmp_path / f"{run.name}.html")
    assert "could not be drawn (KeyError" in page.text
    assert len(page.json) > 3


def test_an_analysis_cannot_name_a_module_outside(tmp_path):
    heads = {"heads": synthetic.sinks_tables()["heads"]}
    for analysis in ("os", "..data", "pages", "__init__", "runs"):
        run = synthetic.write_run(tmp_path / analysis.strip("._") / "runs", "x", "ioi", heads)
        changed = {**synthetic.record(run.name, "x", "ioi"), "analysis": analysis}
        (run / "record.json").write_text(json.dumps(changed))
        out = run.parent.parent
        build(out)
        assert "heads: sink share" in read(out / f"{run.name}.html").text


def test_a_bare_record_still_makes_a_page(tmp_path):
    run = synthetic.write_run(tmp_path / "runs", "sinks", "passages", {})
    bare = {"schema": 1, "status": "complete", "analysis": "sinks", "title": "Bare.", "notes": "one"}
    bare |= {"subject": {}, "task": {}, "options": {}, "versions": {}}
    (run / "record.json").write_text(json.dumps(bare))
    assert len(of_runs(build(tmp_path))) == 1
    assert "Bare" in read(tmp_path / f"{run.name}.html").text


def test_figure_names_become_addresses_that_differ():
    assert unique_slugs(["top 1", "top-1", "φ"]) == {"top 1": "top-1", "top-1": "top-1-1", "φ": "figure"}


def test_a_report_never_loads_a_model_library():
    said = "import sys, crosslens.reports.pages, crosslens.reports.figures.sinks, crosslens.reports.figures.lenses; "
    said += "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_reads_its_claims(tmp_path):
    run = read_run(synthetic.write_run(tmp_path, "sinks", "passages", synthetic.sinks_tables()))
    assert [claim["verdict"] for claim in run.claims] == ["holds", "fails", "undecidable here"]


def test_one_prompt_is_a_page_that_stands_alone(tmp_path):
    rows = pd.DataFrame(synthetic.lenses_tables()["grid"]).query("example == 'facts-0001'")
    figure = charts.captioned(charts.token_grid(rows), "Grid", "One prompt.", "grid")
    path = show_page({"grid": figure}, tmp_path / "show" / "one.html", "lenses: <b>")
    page = read(path)
    assert (path.parent / "plotly.min.js").is_file()
    assert page.addresses() == ["data:,", "plotly.min.js"]
    assert "lenses: <b>" in page.text
    assert "One prompt." in page.text
    assert len(page.json) == 1
    assert show_page(figure, tmp_path / "two.html", "x").is_file()
    assert len(read(show_page([figure, figure], tmp_path / "three.html", "x")).json) == 2


def test_what_agrees_is_said_in_words():
    paper, bar = "arXiv 2411.18620", "this project's bar"
    claims = [
        {
            "text": "The image goes to the question early: cutting costs more (below 0).",
            "verdict": "holds",
            "source": paper,
        },
        {
            "text": "The image goes to the question early: cutting costs more (below 0).",
            "verdict": "holds",
            "source": paper,
        },
        {"text": "Tracing: heads of the first half are few (share below .1).", "verdict": "fails", "source": paper},
        {"text": "It sees: accuracy is above .9.", "verdict": "holds", "source": bar},
        {"text": "Words are told apart.", "verdict": "holds, and so does the control", "source": paper},
        {"text": "It steers.", "verdict": "not testable", "source": paper},
    ]
    assert in_words(claims) == [
        ("Agrees with the papers", "The image goes to the question early."),
        ("Holds, but its control does as well", "Words are told apart."),
        ("Does not agree", "Tracing: heads of the first half are few."),
        ("Not testable here", "It steers."),
        ("Passes bars of this project's own", "It sees: accuracy is above .9."),
    ]


def test_captions_say_how_intervals_were_made():
    """By the numbers of groups that the statistics ask for."""
    table = pd.DataFrame({"value": [1.0, 2.0], "lower": [0.5, 1.5], "upper": [1.5, 2.5], "n": 60, "n_groups": [12, 40]})
    assert "Student on sums of fewer than 30 groups; bootstrap over groups" in style.sample(table, "Bands")
    assert "none below 5 groups" in style.sample(table.assign(n_groups=[4, 12]), "Bands")
    alone = table.assign(lower=float("nan"), upper=float("nan"), n_groups=3)
    assert style.sample(alone, "Bands").endswith("No interval: fewer than 5 groups.")
    assert (style.MIN_GROUPS, style.BOOTSTRAP_FROM) == (stats.MIN_GROUPS, stats.BOOTSTRAP_FROM)


def test_an_analysis_without_figures_of_its_own_gets_the_default_ones():
    assert drawer("no_such_analysis") is default.figures
    assert drawer("lenses") is lenses.figures
