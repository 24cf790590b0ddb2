"""State × position, where early positions have rows of their own and late ones lie in bins that grow."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .hovers import FORMAT, fixed
from .maps import heat_map
from .style import traces_of

SHOWN = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # positions with a tick


def position_map(frame: pd.DataFrame, unit: str) -> go.Figure:
    """A panel per condition; positions on a logarithmic axis, the first on top, so that a bin is as high as it is wide.

    frame: state position position_label value condition, by position; a bin is named by its first position.
    """
    figure = heat_map(frame, "state", "position_label", panel="condition", unit=unit)
    labels = frame.drop_duplicates("position_label").set_index("position_label")["position"].sort_values()
    starts = labels.to_numpy(dtype=float) + 1
    last = str(labels.index[-1]).rpartition("–")[2]
    end = float(last) + 2 if last.isdigit() else starts[-1] * 2
    edges = [*starts.tolist(), end]
    order = {str(name): i for i, name in enumerate(labels.index)}
    drawn = list(frame["position_label"].unique())
    rows = sorted(range(len(drawn)), key=lambda i: order[str(drawn[i])])
    said = f"state %{{x}}, position %{{customdata}}<br><b>%{{z:{FORMAT}}}</b> {fixed(unit)}"
    traces = [trace for trace in traces_of(figure) if trace.type == "heatmap"]
    for trace in traces:
        trace.z = [trace.z[i] for i in rows]
        trace.customdata = [[str(drawn[i])] * len(trace.x) for i in rows]
        tail = "<br>%{text}" if trace.text is not None else ""
        trace.text = None if trace.text is None else [trace.text[i] for i in rows]
        trace.update(y=edges, hovertemplate=f"{said}{tail}<extra></extra>", ygap=0)
    ticks = [p for p in SHOWN if edges[0] <= p + 1 < edges[-1]]
    figure.update_yaxes(tickvals=[p + 1 for p in ticks], ticktext=[str(p) for p in ticks], title_text="position")
    span = [float(np.log10(edges[-1])), float(np.log10(edges[0]))]
    panels = frame["condition"].nunique()
    return figure.update_yaxes(type="log", range=span).update_layout(height=110 + panels * 254)
