"""Names on a figure: the heads and layers that a text speaks of, framed and labelled where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from .style import GREY, INK, meta_of, traces_of

NAME = {"font": {"size": 10.5, "color": INK}, "bgcolor": "rgba(255,255,255,0.8)", "borderpad": 0, "showarrow": False}


def mark(figure: go.Figure, names: Sequence[str]) -> go.Figure:
    """Heads ("12.3") named on head maps and among points, layers ("L12") on maps and curves over layers."""
    heads = [name for name in names if name[:1].isdigit()]
    label_heads(figure, heads)
    _label_points(figure, heads)
    if meta_of(figure).get("x") == "layer":
        layers = sorted({int(name[1:]) for name in names if name.startswith("L") and name[1:].isdigit()})
        for place, layer in enumerate(layers):
            _label_layer(figure, layer, line=place % LINES)
    return figure


def label_heads(figure: go.Figure, heads: Sequence[str]) -> go.Figure:
    """The cells of these heads ("12.3") framed and named, in every panel of a head map."""
    maps: Any = [trace for trace in traces_of(figure) if trace.type == "heatmap" and trace.customdata is not None]
    panels_seen = {trace.yaxis or "y": trace for trace in reversed(maps)}
    for trace in panels_seen.values():
        known = {cell for line in trace.customdata for cell in line}
        for name in (head for head in heads if head in known):
            _label(figure, trace, name, heads)
    return figure


def _label(figure: go.Figure, trace: Any, name: str, heads: Sequence[str]) -> None:
    layer, head = map(int, name.split("."))
    axes = {"xref": trace.xaxis or "x", "yref": trace.yaxis or "y"}
    frame = {"line": {"color": INK, "width": 1.6}, "fillcolor": "rgba(0,0,0,0)"}
    figure.add_shape(type="rect", x0=layer - 0.5, x1=layer + 0.5, y0=head - 0.5, y1=head + 0.5, **frame, **axes)
    right = f"{layer + 1}.{head}" not in heads and layer + 2 < trace.x[-1]
    side = {"x": layer + (0.55 if right else -0.55), "xanchor": "left" if right else "right"}
    figure.add_annotation(text=name, y=head, **NAME, **side, **axes)


def _label_points(figure: go.Figure, heads: Sequence[str]) -> None:
    """Points that are named "12.3" or "12.3 mover", where at least one of the heads is among them."""
    points: Any = [trace for trace in traces_of(figure) if trace.type == "scatter" and trace.mode == "markers+text"]
    points = [trace for trace in points if trace.customdata is not None]
    if not any(_head(name) in heads for trace in points for name in trace.customdata):
        return
    for trace in points:
        trace.text = [name if _head(name) in heads else "" for name in trace.customdata]


def _head(name: str) -> str:
    return name.partition(" ")[0]


LINES = 3  # names of neighbouring layers stand below each other


def _label_layer(figure: go.Figure, layer: int, line: int) -> None:
    """A line at the layer, named inside of the plot: above it stand the titles of panels."""
    known = [x for trace in traces_of(figure) if trace.x is not None for x in trace.x if isinstance(x, (int, float))]
    side = "left" if known and layer > 0.75 * max(known) else "right"
    look = {"line_width": 1, "line_color": GREY, "annotation_text": f"layer {layer}"}
    look |= {"annotation_position": f"top {side}", "annotation_bgcolor": NAME["bgcolor"]}
    look |= {"annotation_yshift": -15 * line}
    figure.add_vline(layer, **look, annotation_font_size=10.5)  # type: ignore[arg-type]
