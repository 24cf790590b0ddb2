"""Lines with intervals, sorted spectra, spikes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .hovers import fixed, template
from .style import (
    COLOURS,
    DASHES,
    GREY,
    MARKERS,
    axis_title,
    check_rows,
    common_unit,
    digits,
    grid_of,
    legend_below,
    meta_of,
    number,
    panels,
    parts,
    place,
    plain,
    sized,
)

HEIGHT = 400  # px
FAINT = 0.18  # the opacity of a band; a control's is half


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
    steps: bool = False,
) -> go.Figure:
    """One line per value of `by` over `x`, with a band from `lower` to `upper`; panels side by side share y.

    Rows whose column `control` is not empty are dotted: in the colour of the series that they control, or, where
    there is one series alone, in grey (the first) and further colours.
    reference: (height, label, panel) of horizontal lines, dashed where they have a label; panel "" is every panel.
    steps: as a staircase.
    """
    check_rows(frame, (panel, by, "control", x))
    frame = frame.rename(columns={lower: "lower", upper: "upper"})
    frame = _above_zero(frame, y) if log_y else frame
    split = parts(frame, panel)
    figure = panels([name for name, _ in split], stacked=False, gap=0.03)
    controls = _controls(frame)
    order = list(frame[by].unique()) if by else ["measured" if len(controls) > 1 else ""]
    for column, (panel_name, part) in enumerate(split, start=1):
        for index, name in enumerate(order):
            rows = part[part[by] == name] if by else part
            told = [fixed(panel_name), fixed(name)]
            for trace in _series(rows, (x, y), told, (index, len(order)), controls, markers):
                figure.add_trace(trace, **place(column, len(split)))
        _references(figure, [r for r in reference if r[2] in ("", panel_name)], part[x], place(column, len(split)))
    if steps:
        figure.update_traces(line_shape="hv")
    _legend(figure, len(order))
    figure.update_xaxes(title_text=axis_title(x))
    figure.update_yaxes(title_text=plain(common_unit(frame, y) if y_title is None else y_title), col=1)
    if log_y:
        figure.update_yaxes(type="log", **_log_ticks(frame[y]))
    figure.update_layout(meta={**meta_of(figure), "x": x})
    height = HEIGHT * grid_of(len(split))[0]
    return legend_below(sized(figure, height, min(280 * len(split), 920) if len(split) > 1 else 0))


def _above_zero(frame: pd.DataFrame, y: str) -> pd.DataFrame:
    """A logarithmic axis has no 0: bands end below the least value, values without a place are left out."""
    known = frame[frame[y] > 0] if (frame[y] > 0).any() else frame
    return known.assign(lower=known["lower"].clip(lower=known[y].min() / 10)) if "lower" in known else known


def _controls(rows: pd.DataFrame) -> list[str]:
    """The names of the controls, "" among them where something is measured."""
    return [str(c) for c in rows["control"].fillna("").unique()] if "control" in rows else [""]


def _series(
    rows: pd.DataFrame, names: tuple[str, str], told: list[str], at: tuple[int, int], controls: list[str], marks: bool
) -> list[go.Scatter]:
    """The band and the line of one series, and those of its controls. at: its number, and how many series there are."""
    x, y = names
    traces = []
    own = rows["control"].fillna("").to_numpy() if "control" in rows else np.full(len(rows), "")
    for control, part in rows.groupby(own, sort=False):
        part = part.sort_values(x, kind="stable")
        look = _look(at, controls, str(control), marks)
        group = {"legendgroup": f"control {control}" if control else f"series {told[-1]}"}
        if {"lower", "upper"} <= set(part) and part["lower"].notna().any():
            band = _band(part, x, ("lower", "upper"), look["line"]["color"], FAINT / 2 if control else FAINT)
            traces.append(go.Scatter(**band, **group))
        said = [*told, f"control: {fixed(control)}" if control else "", f"{x.replace('_', ' ')} %{{x}}"]
        data = {"x": digits(part[x]), "y": digits(part[y]), **template(said, "y", part, "customdata")}
        name = f"control: {plain(control)}" if control else told[-1]
        traces.append(go.Scatter(**data, **look, **group, name=name, showlegend=False))
    return traces


def _look(at: tuple[int, int], controls: list[str], control: str, marks: bool) -> dict:
    index, count = at
    if control and count == 1:  # nothing else has the other colours
        index = [c for c in controls if c].index(control)
    colour = GREY if control and count == 1 and index == 0 else COLOURS[index % len(COLOURS)]
    dash = "dot" if control else DASHES[index % len(DASHES)]
    symbol = MARKERS[index % len(MARKERS)] + ("-open" if control else "")
    return {
        "mode": "lines+markers" if marks else "lines",
        "line": {"color": colour, "dash": dash, "width": 1.5 if control else 2},
        "marker": {"symbol": symbol, "size": 4 if control else 6},
    }


def _band(part: pd.DataFrame, x: str, ends: tuple[str, str], colour: str, opacity: float) -> dict:
    """A closed outline per stretch without missing values, a bar where that is one; plotly would bridge a gap."""
    low, high, at = (part[c].to_numpy(dtype=float) for c in (*ends, x))
    known = np.isfinite(low) & np.isfinite(high)
    xs: list[float | None] = []
    ys: list[float | None] = []
    for stretch in np.split(np.arange(len(at)), np.flatnonzero(np.diff(known)) + 1):
        if len(stretch) == 1 and known[stretch[0]]:
            left, right, down, up = at[stretch][0] - 0.1, at[stretch][0] + 0.1, low[stretch][0], high[stretch][0]
            xs += [*digits([left, right, right, left]), None]
            ys += [*digits([down, down, up, up]), None]
        elif len(stretch) and known[stretch[0]]:
            xs += [*digits(at[stretch]), *digits(at[stretch][::-1]), None]
            ys += [*digits(low[stretch]), *digits(high[stretch][::-1]), None]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    fill = {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},{opacity})", "line": {"width": 0}}
    return {"x": xs, "y": ys, "mode": "lines", "hoverinfo": "skip", "showlegend": False, **fill}


def _references(figure: go.Figure, reference: Sequence[tuple[float, str, str]], x: pd.Series, where: dict) -> None:
    """Horizontal lines; one that has a name has it in the legend, where it lies on no curve."""
    for height, label, _ in reference:
        if not label:
            figure.add_hline(height, line_color=GREY, line_width=1, **where)
            continue
        line = {"color": GREY, "dash": "dash", "width": 1.3}
        ends = {"x": digits([x.min(), x.max()]), "y": digits([height] * 2)}
        named = {"name": plain(label), "legendgroup": f"reference {label}", "hoverinfo": "name"}
        figure.add_scatter(**ends, mode="lines", line=line, **named, showlegend=False, **where)


def _log_ticks(values: pd.Series) -> dict:
    """The decades; 1, 2, 5 of each where there are too few of them."""
    known = values[values > 0]
    if known.empty or known.max() >= 100 * known.min():
        decades = math.log10(known.max() / known.min()) if len(known) else 1
        return {"dtick": max(1, round(decades / 6)), "exponentformat": "power"}
    low, high = (math.floor(math.log10(v)) for v in (known.min(), known.max()))
    ticks = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}


def _legend(figure: go.Figure, count: int) -> None:
    """Each series once; each control once: grey, where its colours are those of many series."""
    seen = {""}
    traces: list[Any] = list(figure.data)
    for trace in traces:
        if not trace.name or trace.name in seen:
            continue
        seen.add(trace.name)
        if count == 1 or not trace.legendgroup.startswith("control "):
            trace.showlegend = True
            continue
        line = {"color": GREY, "dash": "dot", "width": 1.5}
        named = {"name": trace.name, "legendgroup": trace.legendgroup}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, **named, showlegend=True)


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
    split = parts(frame, panel)
    for column, (_, part) in enumerate(split, start=1):
        some = part[part[x].isin(list(marked))]
        figure.add_scatter(
            x=digits(some[x]),
            y=digits(some["value"]),
            text=[str(at) for at in some[x]],
            mode="markers+text",
            textposition="top center",
            marker={"symbol": "circle-open", "size": 8, "color": COLOURS[1], "line": {"width": 2}},
            hoverinfo="skip",
            showlegend=False,
            cliponaxis=False,
            **place(column, len(split)),
        )
    return figure
