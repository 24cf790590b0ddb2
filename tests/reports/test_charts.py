"""Figures are read as data, not as pixels: scales, missing cells, intervals, escaping."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from crosslens.reports import charts
from crosslens.reports.charts.marks import mark
from crosslens.reports.charts.style import number
from crosslens.reports.figures import default, lenses, sinks

from ..helpers import synthetic


def heads(values, **columns):
    """A table of layer × head values, rows in a scrambled order."""
    values = np.asarray(values, dtype=float)
    rows = [
        {"layer": layer, "head": head, "value": values[layer, head], "unit": "logits", "n": 5, **columns}
        for layer in range(values.shape[0])
        for head in range(values.shape[1])
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def curve(n=5, **columns):
    value = np.linspace(1, 2, n)
    return pd.DataFrame({"state": range(n), "value": value, "lower": value - 0.1, "upper": value + 0.2, **columns})


def maps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def curves(figure):
    """The lines with points; bands and legend entries left out."""
    return [t for t in figure.data if t.fill is None and t.x is not None and t.x[0] is not None]


def bands(figure):
    return [trace for trace in figure.data if trace.fill == "toself"]


def test_head_map_puts_every_value_in_its_cell():
    values = np.arange(6.0).reshape(2, 3)
    (trace,) = maps(charts.head_map(heads(values)))
    assert list(trace.x) == [0, 1]  # layers run to the right
    np.testing.assert_array_equal(np.asarray(trace.z), values.T)


def test_panels_share_one_scale():
    both = pd.concat([heads([[0.1, 0.2]], panel="a"), heads([[0.9, 0.3]], panel="b")])
    traces = maps(charts.head_map(both, panel="panel"))
    assert [(t.zmin, t.zmax) for t in traces] == [(0.0, 0.9)] * 2
    assert [t.showscale for t in traces] == [True, False]


def test_a_signed_map_is_symmetric_about_zero():
    both = pd.concat([heads([[0.5, -0.1]], panel="a"), heads([[-2.0, 0.3]], panel="b")])
    for trace in maps(charts.head_map(both, signed=True, panel="panel")):
        assert (trace.zmin, trace.zmid, trace.zmax) == (-2.0, 0, 2.0)
    assert trace.colorscale[0][1] != trace.colorscale[-1][1]


@pytest.mark.parametrize("signed", [False, True])
def test_a_map_of_zeros_has_a_scale(signed):
    (trace,) = maps(charts.head_map(heads(np.zeros((2, 2))), signed=signed))
    assert trace.zmin < trace.zmax


def test_missing_cells_and_missing_layers_stay_missing():
    table = heads([[1.0, math.nan], [3.0, 4.0], [5.0, 6.0]])
    table = table[table["layer"] != 1]
    (trace,) = maps(charts.head_map(table))
    z = np.asarray(trace.z, dtype=float)
    assert list(trace.x) == [0, 1, 2]
    assert math.isnan(z[1, 0])
    assert np.isnan(z[:, 1]).all()
    assert trace.customdata[0][1] is None
    assert trace.hoverongaps is False


def test_hover_says_layer_head_value_unit_interval_and_n():
    table = heads([[0.123456]], lower=0.1, upper=0.2, n_groups=3)
    (trace,) = maps(charts.head_map(table))
    for part in ("layer %{x}", "head %{y}", "%{z:,.4~r}", "logits", "%{text}", "n = 5 in 3 groups"):
        assert part in trace.hovertemplate
    assert trace.text[0][0] == "95 %: 0.1 to 0.2"
    assert trace.z[0][0] == 0.12346  # five digits
    assert trace.customdata[0][0] == "0.0"  # the address of a head


def test_n_is_said_by_every_point_where_it_differs():
    (trace,) = maps(charts.head_map(heads([[1.0, 2.0]]).assign(n=[5, 6])))
    assert sorted(trace.text[row][0] for row in range(2)) == ["n = 5", "n = 6"]


def test_cells_that_are_not_told_from_the_control_are_grey_and_keep_their_value():
    table = heads([[1.0, 2.0]]).sort_values("head").assign(unclear=[False, True])
    measured, grey = maps(charts.head_map(table))
    assert [row[0] for row in measured.z] == [1.0, 2.0]
    assert [row[0] for row in grey.z] == [None, 1]
    assert grey.hoverinfo == "skip"


def test_buttons_show_one_view_and_views_of_one_kind_share_a_scale():
    values = {"measured": [[1.0, 4.0]], "control": [[0.1, 0.2]], "difference": [[-0.5, 3.8]]}
    table = pd.concat([heads(v, view=name) for name, v in values.items()])
    figure = charts.head_map(table, view="view", signed={"difference"})
    assert [t.visible for t in maps(figure)] == [True, False, False]
    assert [(t.zmin, t.zmax) for t in maps(figure)] == [(0.0, 4.0), (0.0, 4.0), (-3.8, 3.8)]
    shown = [button.args[0]["visible"] for button in figure.layout.updatemenus[0].buttons]
    assert shown == np.eye(3, dtype=bool).tolist()


@pytest.mark.parametrize("signed", [False, True])
def test_one_cell_does_not_swallow_the_range(signed):
    values = np.linspace(0.1, 1, 400).reshape(20, 20)
    values[3, 4] = 50.0
    (trace,) = maps(charts.head_map(heads(values), signed=signed))
    assert trace.zmax < 2
    assert trace.colorbar.ticktext[-1].startswith("≥ ")
    assert trace.z[4][3] == 50.0
    values[3, 4] = 1.5
    (trace,) = maps(charts.head_map(heads(values)))
    assert trace.zmax == 1.5
    assert not any("≥" in tick for tick in trace.colorbar.ticktext)


def test_every_third_state_is_no_barcode():
    table = pd.DataFrame([{"state": s, "place": p, "value": 1.0} for s in (0, 3, 6, 9) for p in "ab"])
    (trace,) = maps(charts.heat_map(table, "state", "place"))
    assert list(trace.x) == [0, 3, 6, 9]


def test_heads_and_layers_that_are_spoken_of_are_named():
    figure = mark(charts.head_map(heads(np.ones((4, 3)))), ["2.1", "9.9", "L3"])
    assert [note.text for note in figure.layout.annotations if note.text] == ["2.1", "layer 3"]
    (frame,) = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (1.5, 2.5, 0.5, 1.5)
    table = heads(np.ones((2, 2))).assign(
        label=lambda f: f["layer"].astype(str) + "." + f["head"].astype(str) + " mover"
    )
    points = mark(charts.scatter(table, "value", "value", "label", titles=("x", "y")), ["1.0"])
    assert [text for text in points.data[0].text if text] == ["1.0 mover"]


def test_two_rows_for_one_place_are_an_error_not_a_silent_choice():
    twice = pd.concat([heads([[1.0]], by="a"), heads([[2.0]], by="b")])
    with pytest.raises(ValueError, match="two rows for layer 0, head 0"):
        charts.head_map(twice)
    assert len(maps(charts.head_map(twice, panel="by"))) == 2
    both = pd.concat([curve(by="a"), curve(by="b")])
    with pytest.raises(ValueError, match="two rows for state 0"):
        charts.lines(both, "state")
    with pytest.raises(ValueError, match="two rows for state 0"):
        charts.dots(both, "state")


def test_an_empty_table_is_an_error_not_an_empty_box():
    with pytest.raises(ValueError, match="nothing to draw"):
        charts.head_map(heads([[1.0]]).iloc[:0])
    with pytest.raises(ValueError, match="nothing to draw"):
        charts.lines(curve().iloc[:0], "state")
    with pytest.raises(ValueError, match="nothing to draw"):
        charts.dots(curve().iloc[:0], "state")


def test_lines_never_differ_by_colour_alone():
    table = pd.concat([curve(by=name) for name in "abcdefg"])
    drawn = curves(charts.lines(table, "state", by="by"))
    assert len({t.line.color for t in drawn}) == 7
    assert len({t.marker.symbol for t in drawn}) == 7
    looks = {(t.line.dash, t.marker.symbol) for t in drawn}
    assert len(looks) == 7


def test_a_band_spans_lower_to_upper():
    table = curve()
    (band,) = bands(charts.lines(table, "state"))
    assert list(band.y) == pytest.approx([*table["lower"], *table["upper"][::-1], None], nan_ok=True)


def test_a_band_breaks_where_the_interval_is_missing():
    table = curve()
    table.loc[2, ["lower", "upper"]] = math.nan
    (band,) = bands(charts.lines(table, "state"))
    assert list(band.x) == [0, 1, 1, 0, None, 3, 4, 4, 3, None]


def test_a_line_is_sorted_and_keeps_its_gap():
    table = curve()
    table.loc[2, "value"] = math.nan
    (line,) = curves(charts.lines(table.sample(frac=1, random_state=1), "state"))
    assert list(line.x) == [0, 1, 2, 3, 4]
    assert line.y[2] is None


def test_a_control_has_its_series_colour_and_is_dotted():
    table = pd.concat([curve(by=b, control=c) for b in ("x", "y") for c in ("", "chance")])
    figure = charts.lines(table, "state", by="by")
    measured = [t for t in curves(figure) if t.line.dash != "dot"]
    controls = [t for t in curves(figure) if t.line.dash == "dot"]
    assert [t.line.color for t in measured] == [t.line.color for t in controls]
    assert {t.name for t in figure.data if t.showlegend} == {"x", "y", "control: chance"}


def test_the_control_of_a_single_series_is_grey_and_dotted():
    table = pd.concat([curve(control=c) for c in ("", "chance", "others")])
    drawn = curves(charts.lines(table, "state"))
    assert [t.line.dash for t in drawn] == ["solid", "dot", "dot"]
    assert drawn[1].line.color == "#6b6b6b"
    assert len({t.line.color for t in drawn}) == 3
    assert [t.name for t in drawn if t.showlegend] == ["measured", "control: chance", "control: others"]


def test_bands_end_above_zero_on_a_logarithmic_axis():
    table = curve().assign(lower=[-1.0, 0.0, 1.0, 1.0, 1.0], value=[0.0, 1.0, 2.0, 3.0, 4.0])
    figure = charts.lines(table, "state", log_y=True)
    assert min(y for y in bands(figure)[0].y if y is not None) == pytest.approx(0.1)
    assert list(curves(figure)[0].x) == [1, 2, 3, 4]


def test_a_legend_names_a_series_that_only_the_second_panel_has():
    table = pd.concat([curve(by="x", panel="p"), curve(by="x", panel="q"), curve(by="y", panel="q")])
    figure = charts.lines(table, "state", by="by", panel="panel")
    assert [t.name for t in figure.data if t.showlegend] == ["x", "y"]
    assert figure.layout.yaxis2.matches == "y"


def test_a_spectrum_falls_in_every_series():
    table = pd.concat([heads(np.random.default_rng(i).random((4, 3)), by=name) for i, name in enumerate("ab")])
    drawn = curves(charts.spectrum(table, by="by"))
    assert [list(t.x) for t in drawn] == [list(range(1, 13))] * 2
    assert all((np.diff(t.y) <= 0).all() for t in drawn)


def test_dots_carry_their_interval_and_equal_names_share_a_line():
    table = curve(2).assign(name=["one", "two"])
    table = pd.concat([table.assign(by="x"), table.assign(by="y")])
    figure = charts.dots(table, "name", by="by")
    for trace in figure.data:
        assert [round(at) for at in trace.y] == [0, 1]
        assert trace.error_x.array == pytest.approx([0.2, 0.2])
        assert trace.error_x.arrayminus == pytest.approx([0.1, 0.1])
    assert figure.data[0].marker.symbol != figure.data[1].marker.symbol


def test_a_control_is_a_grey_tick_on_the_line_of_its_dot():
    table = pd.concat([curve(2, control=c).assign(name=["one", "two"]) for c in ("", "chance")])
    tick, dot = charts.dots(table, "name").data  # the dot lies over its tick
    assert list(dot.y) == list(tick.y)
    assert (tick.marker.symbol, tick.marker.color) == ("line-ns", "#6b6b6b")
    assert [dot.name, tick.name] == ["measured", "control: chance"]
    assert dot.showlegend
    assert tick.showlegend


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("<s>", "&lt;s&gt;"),
        ("<b>", "&lt;b&gt;"),
        ("&", "&amp;"),
        ('"', '"'),
        ("\n", "↵"),
        ("\n\n", "↵↵"),
        (" the", "␣the"),
        ("  x", "␣␣x"),
        (" ", "␣"),
        ("\t", "⇥"),
        ("\0", "␀"),
        ("\u00a0", "U+00A0"),
        ("🙂", "🙂"),
        (" שלום", "␣שלום"),
        ("", ""),
    ],
)
def test_token_labels(token, label):
    assert charts.token_label(token) == label


def test_equal_tokens_are_not_merged():
    tokens = [" the", "cat", " the", " the"]
    table = pd.DataFrame(synthetic.grid("x", tokens, np.random.default_rng(0)))
    figure = charts.token_grid(table)
    (trace,) = maps(figure)
    assert list(trace.x) == [0, 1, 2, 3]
    assert np.asarray(trace.z).shape == (synthetic.LAYERS + 1, 4)
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2, 3]
    assert list(figure.layout.xaxis.ticktext) == ["␣the", "cat", "␣the", "␣the"]
    words = figure.data[1]
    assert list(words.text[:4]) == ["␣the", "cat", "␣the", "␣the"]
    assert (trace.zmin, trace.zmax) == (0, 1)


def route():
    """A head that reads token 0 at token 2, the residual below and above it, an MLP; token 1 has no edge."""
    rows = [(1.0, 1.5, 0, 2, "attention", 0.5), (0.5, 1.0, 0, 0, "residual", 0.4), (1.5, 2.0, 2, 2, "residual", 0.05)]
    rows += [(1.5, 2.0, 2, 2, "MLP", 0.2), (1.0, 1.5, 2, 2, "attention", 0.1)]
    table = pd.DataFrame(rows, columns=["state", "to_state", "source", "target", "kind", "followed"])
    words = {0: "<b>", 2: " to"}
    tokens = {f"{end}_token": table[end].map(words) for end in ("source", "target")}
    return table.assign(value=0.3, heads=2, strongest="1.4", **tokens)


def test_a_graph_has_a_line_for_every_edge_between_tokens_and_a_mark_for_what_a_layer_adds():
    figure = charts.token_graph(route())
    drawn = [(t.name, list(t.x), list(t.y)) for t in figure.data if t.mode == "lines"]
    assert ("attention", [0, 1, None], [1.0, 1.5, None]) in drawn
    assert ("residual", [0, 0, None], [0.5, 1.0, None]) in drawn
    assert sum(len(x) for _, x, _ in drawn) == 3 * 3, "attention to the token itself is a mark alone"
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt; · 0", "␣to · 2"]
    marks = {t.name: t for t in figure.data if t.mode == "markers"}
    assert len(marks["MLP"].x) == 1
    assert "head 1.4 and 1 more: “&lt;b&gt;” (0) → “␣to” (2)" in marks["attention"].text[0]
    assert sorted(t.name for t in figure.data if t.showlegend) == ["MLP", "attention", "residual"]
    widths = {t.line.width for t in figure.data if t.mode == "lines"}
    assert len(widths) == 2, "wide where much of the output was followed"


def test_a_long_token_is_cut_before_it_is_escaped():
    table = pd.DataFrame(synthetic.grid("x", ["<" * 30], np.random.default_rng(0)))
    figure = charts.token_grid(table)
    assert figure.data[1].text[0] == "&lt;" * 8 + "…"
    assert "&lt;" * 30 in figure.data[0].text[0][0]


def test_names_of_series_and_panels_are_escaped():
    table = pd.concat([curve(by="<b>x</b>", panel="<i>"), curve(by="&", panel="<i>")])
    figure = charts.lines(table, "state", by="by", panel="panel")
    assert [t.name for t in figure.data if t.showlegend] == ["&lt;b&gt;x&lt;/b&gt;", "&amp;"]
    assert figure.layout.annotations[0].text == "&lt;i&gt;"
    assert not any("<b>x" in (trace.hovertemplate or "") for trace in figure.data)


def test_a_caption_travels_with_its_figure():
    figure = charts.captioned(charts.head_map(heads([[1.0]])), "A & B", "What.", "heads", {"measure": "m"})
    assert figure.layout.title.text == "A &amp; B"
    meta = figure.layout.meta
    assert (meta["title"], meta["caption"], meta["table"]) == ("A & B", "What.", "heads")
    assert meta["where"] == {"measure": "m"}


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (3.0, "3"), (12345, "12,345"), (0.123456, "0.1235"), (2900.04, "2,900.0")]
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("module", "tables"), [(sinks, synthetic.sinks_tables), (lenses, synthetic.lenses_tables)])
def test_every_figure_of_an_analysis_has_title_caption_and_rows(module, tables):
    made = tables()
    drawn = module.figures(made)
    assert len({figure.layout.meta["title"] for figure in drawn.values()}) == len(drawn)
    for name, figure in drawn.items():
        assert figure.layout.meta["table"] in made, name
        assert len(figure.layout.meta["caption"]) > 40, name
        assert figure.layout.height > 100, name


def test_figures_of_sinks_say_n_interval_and_control():
    drawn = sinks.figures(synthetic.sinks_tables())
    said = drawn["received"].layout.meta["caption"].replace("\u00a0", " ")
    assert "n = 64 in 12 groups" in said
    assert "95 % interval" in said
    assert "uniform attention" in said
    views = {trace.meta for trace in maps(drawn["sink-share"])}
    assert views == {"measured", "control: random tokens", "measured − control"}


def test_a_model_without_massive_dimensions_has_no_empty_figures():
    tables = synthetic.sinks_tables()
    tables["dimensions"] = tables["dimensions"].iloc[:0]
    tables["threshold"]["value"] = math.nan
    lost = tables["tokens"]["measure"].isin(["phi", "energy"])
    tables["tokens"].loc[lost, ["value", "lower", "upper"]] = math.nan
    drawn = sinks.figures(tables)
    assert not {"phi", "phi-map", "energy", "massive"} & set(drawn)
    assert {"received", "magnitude"} <= set(drawn)


def test_ranks_are_drawn_from_one():
    figure = lenses.figures(synthetic.lenses_tables())["rank"]
    assert min(min(line.y) for line in curves(figure)) == 1
    assert figure.layout.yaxis.type == "log"


def test_the_whole_task_comes_first_among_the_groups():
    figure = lenses.figures(synthetic.lenses_tables())["accuracy"]
    assert figure.layout.yaxis.ticktext[0] == "all"


def test_default_lines_are_told_apart_by_numbers_too():
    table = pd.concat([curve(dimension=7, ratio=0.5), curve(dimension=9, ratio=0.7)])
    drawn = default.figures({"d": table, "unclear": pd.concat([curve(), curve()])})
    assert list(drawn) == ["d"]
    assert [t.name for t in drawn["d"].data if t.showlegend] == ["dimension 7", "dimension 9"]


def test_default_maps_keep_the_control_apart():
    names = [f"s{i}" for i in range(20)]
    table = pd.concat([curve(by=name, control=control) for name in names for control in ("", "chance")])
    (trace,) = maps(default.figures({"t": table})["t"])
    assert np.asarray(trace.z).shape == (40, 5)


def test_default_figures_follow_the_columns():
    head = pd.concat([heads([[1.0, -2.0]], measure="m"), heads([[1.0, 2.0]], measure="k", condition="c")])
    state = pd.concat([curve(condition="a"), curve(condition="b")])
    drawn = default.figures({"h": head, "s": state, "other": pd.DataFrame({"name": ["x"]})})
    assert list(drawn) == ["h-m", "h-k", "s"]
    assert maps(drawn["h-m"])[0].zmid == 0
    assert maps(drawn["h-k"])[0].zmid is None
    assert [t.name for t in drawn["s"].data if t.showlegend] == ["a", "b"]


def test_a_series_of_a_later_panel_alone_is_in_the_legend():
    rows = [("a", "p", "first", 1.0), ("a", "q", "second", 2.0), ("b", "q", "first", 3.0)]
    frame = pd.DataFrame(rows, columns=["name", "panel", "series", "value"])
    figure = charts.dots(frame, "name", by="series", panel="panel")
    assert [trace.name for trace in figure.data if trace.showlegend] == ["first", "second"]


@pytest.mark.parametrize("count", [1, 4, 5, 15])
def test_many_panels_go_below_each_other(count):
    """Fifteen pairs of six tasks: every panel has its points under its own name."""
    frame = pd.DataFrame([(f"pair {i}", x, float(i), str(x)) for i in range(count) for x in range(3)])
    frame.columns = ["panel", "x", "value", "name"]
    for figure in (
        charts.lines(frame, "x", panel="panel"),
        charts.scatter(frame, "x", "value", "name", titles=("x", "y"), panel="panel"),
        charts.dots(frame, "name", panel="panel"),
    ):
        axes = [trace.yaxis or "y" for trace in figure.data]
        assert len(set(axes)) == count
        assert [note.text for note in figure.layout.annotations] == [f"pair {i}" for i in range(count)]
        domains = {figure.layout["yaxis" + axis[1:]].domain[0] for axis in axes}
        assert len(domains) == -(-count // 4)
