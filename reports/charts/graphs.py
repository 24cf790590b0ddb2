"""One prompt as a graph: tokens by state, and what leads from one to the other."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from .style import COLOURS, GREY, TEMPLATE, axis_title, check_rows, legend_below, sized, token_label

WIDTHS = ((0.3, 4.0), (0.1, 2.5), (0.0, 1.0))  # px of a line that at least so much of the output was followed through
COLOUR = {"attention": COLOURS[0], "MLP": COLOURS[1], "residual": GREY}
MARK = {"attention": "circle", "MLP": "square"}


def token_graph(frame: pd.DataFrame) -> go.Figure:
    """Edges between tokens: across where attention read another token, upwards along the residual; an MLP is a square
    below what it adds to, attention a dot where it read. Lines are wider, marks larger, where `followed` is.

    Columns: state, to_state (heights), source, target (places in the prompt), kind ("attention", "MLP", "residual"),
    value, followed, source_token, target_token; heads and strongest, of attention. Tokens without an edge are left out.
    """
    check_rows(frame, ("kind", "state", "source", "target"))
    words = dict(zip(frame["source"], frame["source_token"], strict=True))
    words |= dict(zip(frame["target"], frame["target_token"], strict=True))
    order = {place: at for at, place in enumerate(sorted(words))}
    rows = frame.assign(x=frame["source"].map(order), to_x=frame["target"].map(order))
    figure = go.Figure()
    for kind in ("residual", "attention"):
        mine = rows[(rows["kind"] == kind) & ((kind == "residual") | (rows["source"] != rows["target"]))]
        for trace in _lines(mine, kind):
            figure.add_trace(trace)
    for kind in MARK:
        mine = rows[rows["kind"] == kind]
        if len(mine):
            figure.add_trace(_marks(mine, kind))
    labels = [f"{token_label(words[place])} · {place}" for place in order]
    figure.update_xaxes(tickvals=list(order.values()), ticktext=labels, tickangle=-40, showgrid=False)
    figure.update_xaxes(title_text="token · its place", range=[-0.6, len(order) - 0.4])
    figure.update_yaxes(title_text=axis_title("state"), dtick=5 if rows["to_state"].max() > 12 else 1)
    figure.update_layout(template=TEMPLATE)
    return legend_below(sized(figure, 450, min(160 + 46 * len(order), 920)))


def _lines(rows: pd.DataFrame, kind: str) -> list[go.Scatter]:
    """A trace for each width, so that a legend's entry hides all of a kind."""
    traces, above = [], float("inf")
    for least, width in WIDTHS:
        mine, above = rows[(rows["followed"] >= least) & (rows["followed"] < above)], least
        if len(mine):
            ends = (mine[["x", "to_x"]], mine[["state", "to_state"]])
            x, y = ([v for pair in end.to_numpy(dtype=float).tolist() for v in (*pair, None)] for end in ends)
            look = {"line": {"color": COLOUR[kind], "width": width}, "opacity": 0.75, "hoverinfo": "skip"}
            legend = {"name": kind, "legendgroup": kind, "showlegend": not traces}
            traces.append(go.Scatter(x=x, y=y, mode="lines", **look, **legend))
    return traces


def _marks(rows: pd.DataFrame, kind: str) -> go.Scatter:
    """A mark at the lower end of each edge, which says under the mouse what it is."""
    marker = {"symbol": MARK[kind], "color": COLOUR[kind], "size": [4 + 8 * v for v in rows["followed"].clip(0, 1)]}
    said = [_said(row, kind) for row in rows.to_dict("records")]
    at = {"x": rows["x"].tolist(), "y": rows["state"].tolist()}
    shared: dict[str, Any] = {"name": kind, "legendgroup": kind, "showlegend": kind == "MLP"}
    return go.Scatter(**at, mode="markers", marker=marker, text=said, hovertemplate="%{text}<extra></extra>", **shared)


def _said(row: dict[Any, Any], kind: str) -> str:
    source, target = (f"“{token_label(row[f'{end}_token'])}” ({row[end]})" for end in ("source", "target"))
    more = f" and {row['heads'] - 1} more" if row.get("heads", 0) > 1 else ""
    what = (
        f"attention, head {row['strongest']}{more}: {source} → {target}" if kind == "attention" else f"MLP at {target}"
    )
    shares = f"<b>{row['value']:.0%}</b> of the state above; {row['followed']:.1%} of the output"
    return f"{what}<br>layer {int(row['state'])}: {shares}"
