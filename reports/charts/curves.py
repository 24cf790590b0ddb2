"""Lines with intervals, sorted spectra, spikes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .style import (
    COLOURS,
    DASHES,
    GREY,
    MARKERS,
    axis_title,
    check_rows,
    common_unit,
    grid_of,
    hover,
    legend_below,
    number,
    panels,
    parts,
    place,
    plain,
    sized,
)

HEIGHT = 400  # px


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str = "value",
    by: str | None = None,
    lower: str = "lower",
    upper: str = "upper",
    *,
    panel: str | None = None,
    log_y: bool = False,
    y_title: str | None = None,
    reference: Sequence[tuple[float, str, str]] = (),
    markers: bool = True,
) -> go.Figure:
    """One line per value of `by` over `x`, with a band from `lower` to `upper`; panels side by side share y.

    Rows whose column `control` is not empty are drawn dotted in the colour of the series they control.
    reference: (height, label, panel) of horizontal dashed lines; panel "" is every panel.
    """
    check_rows(frame, (panel, by, "control", x))
    split = parts(frame, panel)
    figure = panels([name for name, _ in split], stacked=False, gap=0.03)
    order = list(frame[by].unique()) if by else [""]
    for column, (panel_name, part) in enumerate(split, start=1):
        for index, name in enumerate(order):
            rows = part[part[by] == name] if by else part
            keys = [key for key in (panel, by) if key]
            for trace in _series(rows, (x, y, lower, upper), keys, index, str(name), markers):
                figure.add_trace(trace, **place(column, len(split)))
        _references(figure, [r for r in reference if r[2] in ("", panel_name)], place(column, len(split)))
    _legend(figure, frame)
    figure.update_xaxes(title_text=axis_title(x))
    figure.update_yaxes(title_text=plain(common_unit(frame, y) if y_title is None else y_title), col=1)
    if log_y:
        figure.update_yaxes(type="log", **_log_ticks(frame[y]))
    height = HEIGHT * grid_of(len(split))[0]
    return legend_below(sized(figure, height, min(280 * len(split), 920) if len(split) > 1 else 0))


def _series(
    rows: pd.DataFrame, names: tuple[str, str, str, str], keys: list[str], index: int, name: str, marks: bool
) -> list[go.Scatter]:
    """The band and the line of one series, and those of its controls."""
    x, y, lower, upper = names
    traces = []
    controls = rows["control"].fillna("").to_numpy() if "control" in rows else np.full(len(rows), "")
    for control, part in rows.groupby(controls, sort=False):
        part = part.sort_values(x, kind="stable")
        look = _look(index, str(control), marks)
        group = f"control {control}" if control else f"series {name}"
        if lower in part and upper in part:
            traces.append(go.Scatter(**_band(part, x, lower, upper, look["line"]["color"]), legendgroup=group))
        hovers = [hover(row, [*keys, "control", x], y) for row in part.to_dict("records")]
        data = {"x": part[x].tolist(), "y": part[y].tolist(), "hovertext": hovers, "name": plain(name)}
        traces.append(go.Scatter(**data, **look, legendgroup=group, showlegend=False))
    return traces


def _look(index: int, control: str, marks: bool) -> dict:
    colour = COLOURS[index % len(COLOURS)]
    dash = "dot" if control else DASHES[index % len(DASHES)]
    symbol = MARKERS[index % len(MARKERS)] + ("-open" if control else "")
    return {
        "mode": "lines+markers" if marks else "lines",
        "line": {"color": colour, "dash": dash, "width": 1.3 if control else 2},
        "marker": {"symbol": symbol, "size": 4 if control else 6},
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _band(part: pd.DataFrame, x: str, lower: str, upper: str, colour: str) -> dict:
    """A closed outline per stretch without missing values, a bar where that is one; plotly would bridge a gap."""
    low, high, at = (part[c].to_numpy(dtype=float) for c in (lower, upper, x))
    known = np.isfinite(low) & np.isfinite(high)
    xs: list[float | None] = []
    ys: list[float | None] = []
    for stretch in np.split(np.arange(len(at)), np.flatnonzero(np.diff(known)) + 1):
        if len(stretch) == 1 and known[stretch[0]]:
            left, right, down, up = at[stretch][0] - 0.1, at[stretch][0] + 0.1, low[stretch][0], high[stretch][0]
            xs += [left, right, right, left, None]
            ys += [down, down, up, up, None]
        elif len(stretch) and known[stretch[0]]:
            xs += [*at[stretch].tolist(), *at[stretch][::-1].tolist(), None]
            ys += [*low[stretch].tolist(), *high[stretch][::-1].tolist(), None]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    fill = {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},0.18)", "line": {"width": 0}}
    return {"x": xs, "y": ys, "mode": "lines", "hoverinfo": "skip", "showlegend": False, **fill}


def _references(figure: go.Figure, reference: Sequence[tuple[float, str, str]], where: dict[str, Any]) -> None:
    for height, label, _ in reference:
        said: dict[str, Any] = {"annotation_text": plain(label), "annotation_position": "top left"}
        look: dict[str, Any] = {"line_dash": "dash", "line_color": GREY, "line_width": 1.2}
        said |= {"annotation_font_size": 12, "annotation_bgcolor": "rgba(255,255,255,0.85)"}
        figure.add_hline(height, **look, **said, **where)  # type: ignore[arg-type]


def _log_ticks(values: pd.Series) -> dict:
    """The decades; 1, 2, 5 of each where there are too few of them."""
    known = values[values > 0]
    if known.empty or known.max() >= 100 * known.min():
        return {"dtick": 1, "exponentformat": "power"}
    low, high = (math.floor(math.log10(v)) for v in (known.min(), known.max()))
    ticks = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}


def _legend(figure: go.Figure, frame: pd.DataFrame) -> None:
    """Each series once, from its first panel; each control once and grey, since it has many colours."""
    seen = {""}
    traces: list[Any] = list(figure.data)
    for trace in traces:
        if trace.name and trace.name not in seen and not trace.legendgroup.startswith("control "):
            trace.showlegend = True
            seen.add(trace.name)
    for control in frame["control"].dropna().unique() if "control" in frame else []:
        if control:
            line = {"color": GREY, "dash": "dot", "width": 1.5}
            name = {"name": f"control: {plain(control)}", "legendgroup": f"control {control}"}
            figure.add_scatter(x=[None], y=[None], mode="lines", line=line, **name, showlegend=True)


def spectrum(frame: pd.DataFrame, by: str | None = None, **options: Any) -> go.Figure:
    """Values sorted from large to small, one line per value of `by` and control: how few do the work."""
    keys = [k for k in (by, options.get("panel"), "control") if k and k in frame]
    place = {key: {name: i for i, name in enumerate(frame[key].unique())} for key in keys}
    ranked = frame.sort_values("value", ascending=False, kind="stable")
    if keys:
        ranked = ranked.sort_values(keys, key=lambda c: c.map(place[str(c.name)]), kind="stable")
        rank = ranked.groupby(keys, sort=False, dropna=False).cumcount() + 1
    else:
        rank = np.arange(1, len(ranked) + 1)
    return lines(ranked.assign(rank=rank), "rank", by=by, markers=False, **options)


def spikes(frame: pd.DataFrame, x: str, panel: str, *, marked: Sequence[int] = (), log_y: bool = True) -> go.Figure:
    """One thin line over `x` per panel on one scale, the `marked` places named."""
    figure = lines(frame, x, panel=panel, markers=False, log_y=log_y)
    figure.update_traces(line_width=1, line_color=COLOURS[0])
    for column, (_, part) in enumerate(frame.groupby(panel, sort=False), start=1):
        some = part[part[x].isin(list(marked))]
        figure.add_scatter(
            x=some[x].tolist(),
            y=some["value"].tolist(),
            text=[str(at) for at in some[x]],
            mode="markers+text",
            textposition="top center",
            marker={"symbol": "circle-open", "size": 8, "color": COLOURS[1], "line": {"width": 2}},
            hovertext=[hover(row, [panel, x]) for row in some.to_dict("records")],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            cliponaxis=False,
            **place(column, frame[panel].nunique()),
        )
    return figure
