"""Laws of every figure: its values stand in its table, its caption names what is drawn, nothing breaks it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from crosslens.reports.figures import drawing
from crosslens.reports.figures.views import DIFFERENCE
from crosslens.reports.pages.page import drawer

from ..analyses.planted_findings import CASES_OF
from ..helpers import planted_report, synthetic
from .test_lens_pages import attribution_tables

# Numbers that a figure makes of its table's: sums up to here, ranks from 1.
MADE = {"words", "sentences-histogram", "captions-histogram", "rank"}
# Sinks and lenses also at a real model's size.
SIZED = {"sinks": synthetic.sinks_tables, "lenses": synthetic.lenses_tables}
PLANTED = [*CASES_OF, *(f"{name}, sized" for name in SIZED), "logit_attribution, with words"]


def tables_of(name: str) -> dict[str, pd.DataFrame]:
    analysis, _, kind = name.partition(", ")
    made = planted_report.tables_of(analysis) if not kind else SIZED.get(analysis, attribution_tables)()
    return {name: table for name, table in made.items() if name not in ("claims", "findings")}


@pytest.fixture(scope="module", params=PLANTED)
def drawn(request):
    tables = tables_of(request.param)
    analysis = request.param.partition(", ")[0]
    return analysis, tables, drawer(analysis)(tables)


def numbers(trace) -> list[float]:
    """The numbers that a trace shows as measured; bands, lines of reference and grey are none."""
    if trace.hovertemplate is None or trace.meta == DIFFERENCE:
        return []
    if trace.type == "heatmap":
        return [v for line in trace.z for v in np.ravel(line) if v is not None]
    values = [*trace.y, *(trace.x if trace.mode == "markers+text" else [])] if trace.error_x.array is None else trace.x
    return [v for v in values if v is not None]


def strangers(shown: list[float], table: pd.DataFrame) -> list[float]:
    """Numbers of which no cell of the table is the size, to the five digits that a figure keeps."""
    cells = np.abs(table.select_dtypes("number").to_numpy(dtype=float).ravel())
    known = np.sort(np.append(cells[np.isfinite(cells)], [-np.inf, np.inf]))
    sizes = np.abs(np.array(shown, dtype=float))
    at = np.searchsorted(known, sizes)
    gap = np.minimum(np.abs(known[at] - sizes), np.abs(known[at - 1] - sizes))
    return sizes[gap > 6e-5 * sizes + 1e-12].tolist()


def test_every_value_stands_in_the_rows_that_its_figure_names(drawn):
    _, tables, figures = drawn
    for name, figure in figures.items():
        if name in MADE and figure.data[0].type == "scatter":
            continue
        for trace in figure.data:
            rows = drawing.matching(tables[figure.layout.meta["table"]], figure.layout.meta["where"])
            assert strangers(numbers(trace), rows) == [], (name, trace.name)


def placed(trace) -> list[tuple[float, list[float]]]:
    """(layer or state, the numbers that a trace shows there)."""
    if trace.hovertemplate is None or trace.meta == DIFFERENCE or (trace.type == "scatter" and trace.mode == "text"):
        return []
    if trace.type == "heatmap":
        columns = zip(*trace.z, strict=True)
        return [(x, [v for v in values if v is not None]) for x, values in zip(trace.x, columns, strict=True)]
    return [(x, [y]) for x, y in zip(trace.x, trace.y, strict=True) if x is not None and y is not None]


def test_every_value_stands_at_its_layer_or_state(drawn):
    _, tables, figures = drawn
    for name, figure in figures.items():
        meta = figure.layout.meta
        column = meta.get("x")
        if column not in ("layer", "state") or name in MADE:
            continue
        rows = drawing.matching(tables[meta["table"]], meta["where"])
        of = dict(iter(rows.groupby(column)))
        for trace in figure.data:
            for x, values in placed(trace):
                assert not values or strangers(values, of[x]) == [], (name, trace.name, x)


def test_a_page_has_a_key_figure_and_at_most_four_open(drawn):
    _, _, figures = drawn
    themes = [figure.layout.meta["theme"] for figure in figures.values()]
    assert 1 <= themes.count("main") <= drawing.OPEN
    assert all(theme and len(theme) < 20 for theme in themes)
    for name, figure in figures.items():
        meta = figure.layout.meta
        assert meta["seen"], name
        assert meta["caption"] == " ".join(meta[part] for part in ("seen", "read", "sample") if meta[part]), name


def test_controls_that_a_caption_names_are_drawn_dotted_or_as_ticks(drawn):
    _, tables, figures = drawn
    for name, figure in figures.items():
        meta = figure.layout.meta
        _, _, said = meta["seen"].rpartition("the control: ")
        shown = {trace.name for trace in figure.data} | {trace.meta for trace in figure.data}
        table = drawing.matching(tables[meta["table"]], meta["where"])
        for control in table["control"].dropna().unique() if "the control: " in meta["seen"] else []:
            assert not control or control not in said or f"control: {control}" in shown, (name, control)


def test_dots_mean_control_and_nothing_is_hatched(drawn):
    _, _, figures = drawn
    for name, figure in figures.items():
        for trace in figure.data:
            if trace.type == "scatter" and trace.line.dash == "dot":
                assert str(trace.legendgroup).startswith("control"), name
            assert trace.type in ("scatter", "heatmap", "image"), name  # no bar, so nothing that is hatched


def test_texts_under_the_mouse_are_short(drawn):
    _, _, figures = drawn
    for name, figure in figures.items():
        assert all(getattr(trace, "hovertext", None) is None for trace in figure.data), name


def test_cells_of_heads_have_their_address(drawn):
    _, _, figures = drawn
    for figure in figures.values():
        if (figure.layout.meta or {}).get("address") != {"kind": "head"}:
            continue
        maps = [trace for trace in figure.data if trace.type == "heatmap" and trace.customdata is not None]
        assert maps
        for trace in maps:
            for head, line in zip(trace.y, trace.customdata, strict=True):
                for layer, cell in zip(trace.x, line, strict=True):
                    assert cell in (None, f"{layer}.{head}")


def without_numbers(table):
    cells = {c: np.nan for c in ("value", "lower", "upper", "normalized", "other", "expected") if c in table}
    return table.assign(**cells)


def one_row_each(table):
    keys = [key for key in ("measure", "control", "way", "kind", "level", "flow") if key in table]
    return table.groupby(keys, dropna=False).head(1) if keys else table.head(1)


def first_layer(table):
    return table[table["layer"] == table["layer"].min()] if "layer" in table else table


@pytest.mark.parametrize("change", [without_numbers, one_row_each, first_layer, lambda table: table.iloc[:0]])
def test_nothing_breaks_a_figure(drawn, change):
    analysis, tables, _ = drawn
    for figure in drawer(analysis)({name: change(table) for name, table in tables.items()}).values():
        assert figure.layout.height > 100


def test_two_thousand_heads_are_a_map():
    layer, head = (axis.ravel() for axis in np.indices((40, 50)))
    table = pd.DataFrame({"layer": layer, "head": head, "value": np.linspace(-1, 1, 2000), "unit": "logits"})
    table = table.assign(condition="BOS", control="", n=8, n_groups=4, lower=-2.0, upper=2.0, measure="difference")
    (figure,) = drawer("logit_attribution")({"heads": table}).values()
    assert len(figure.to_json()) < 200_000


def test_heads_of_the_findings_are_labelled_in_their_figure():
    tables = attribution_tables()
    found = {"figure": ["heads-difference", "top"], "heads": ["3.2 1.0", "0.0"]}
    figures = drawer("logit_attribution")({**tables, "findings": pd.DataFrame(found)})
    assert [note.text for note in figures["heads-difference"].layout.annotations] == ["3.2", "1.0"]
    assert [note.text for note in figures["copying"].layout.annotations] == ["3.2", "1.0"]  # of the first finding


def test_head_divergence_opens_on_the_control_that_its_finding_names():
    tables = planted_report.tables_of("head_divergence")
    turned_round = {**tables, "excess": tables["excess"].iloc[::-1]}
    for given in (tables, turned_round):
        first = next(trace for trace in drawer("head_divergence")(given)["excess"].data if trace.visible)
        assert first.meta.endswith("another question")
