"""The pages of circuits, faithfulness, steering and overlap draw every figure from what the analyses write."""

from __future__ import annotations

import pytest
from crosslens.analyses.circuits import (
    _circuit_tables,
    _edge_names,
    _faithfulness_tables,
    _overlap_tables,
    circuits,
    edges,
    faithfulness,
    overlap,
    steering,
)
from crosslens.analyses.common import agreement
from crosslens.data.tasks import ioi
from crosslens.probes.runs.join import finished, join
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.figures import circuits as report_circuits
from crosslens.reports.figures import edges as report_edges
from crosslens.reports.figures import faithfulness as report_faithfulness
from crosslens.reports.figures import overlap as report_overlap
from crosslens.reports.pages import build, page
from crosslens.reports.pages.runs import read_run

from ..analyses.claims import circuits as claims_of
from ..helpers import contrasts, tiny
from ..helpers.makers import tables_from


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    analyses = {
        "circuits": (circuits, circuits.Options(movers=2)),
        "faithfulness": (faithfulness, faithfulness.Options(draws=2)),
        "edges": (edges, edges.Options(movers=2, strongest=6)),
        "steering": (steering, steering.Options(targets="indirect_object", draws=2)),
    }
    words = lambda n=None, seed=0, *, tokenizer: contrasts.examples(n, seed, tokenizer=tokenizer)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ioi, "examples", words)  # the tiny tokenizer knows no names
        run(tiny.subject(), contrasts.task(), analyses, Settings(limit=40, out=out))
    for name, seed in (("others", 5), ("third", 6)):
        task = contrasts.task()
        alone = {"circuits": analyses["circuits"]}
        run(tiny.subject(), type(task)(name, task.module, {}), alone, Settings(limit=8, seed=seed, out=out))
    join(finished(out, "circuits"), "overlap", overlap, overlap.Options(), out, "")
    return out


FIGURES = {
    "circuits": ["effects", "task", "circuit", "attention", "writing", "mlps", "estimates", "agreement", "halves"],
    "faithfulness": ["logits", "task", "effects", "estimates", "agreement", "places", "head-places"],
    "edges": ["into", "strongest", "estimates", "agreement", "task"],
    "steering": ["repair", "gain", "silent", "looks"],
    "overlap": [
        "overlap",
        "maps-1",
        "maps-2",
        "curve-2",
        "scatter",
        "scatter-last",
        "matrix",
        "pairs",
        "pooled",
        "correlation",
    ],
}


@pytest.mark.parametrize("analysis", FIGURES)
def test_every_figure_is_drawn(report, analysis):
    (path,) = (p for p in (report / "runs").glob(f"{analysis}.*") if analysis != "circuits" or ".twins." in p.name)
    read = read_run(path)
    figures, trouble = page.run_figures(read)
    assert trouble == []
    assert set(FIGURES[analysis]) <= set(figures)
    assert next(iter(figures.values())).layout.meta["theme"] == "main"
    for figure in figures.values():
        assert "n\u00a0=\u00a0" in figure.layout.meta["caption"]
    assert read.claims


def test_the_report_is_written(report):
    written = build.build(report)
    assert {path.name.partition(".")[0] for path in written} >= set(FIGURES)
    text = next(p for p in written if p.name.startswith("steering.")).read_text()
    assert "oracle" in text


def test_pages_say_what_the_analyses_wrote():
    """Pages know no other room: their words for stages, estimates and controls are the analyses' own."""
    assert report_circuits.STAGES == _circuit_tables.STAGES
    assert (report_circuits.LOGITS, report_circuits.ATTENTION) == (_circuit_tables.LOGITS, _circuit_tables.ATTENTION)
    assert tuple(agreement.ESTIMATES) == report_circuits.ESTIMATES
    assert report_overlap.MATRIX == _overlap_tables.CLAIMED
    assert (report_edges.EXACT, report_faithfulness.EXACT) == (_edge_names.EXACT, _faithfulness_tables.EXACT)


def test_how_few_heads_is_drawn_where_the_halves_agree():
    tables = tables_from(circuits, claims_of.rows())
    figure = report_circuits.figures(tables)["needed"]
    assert [trace for trace in figure.data if len(trace.x)], "the strongest heads and random ones over their share"
