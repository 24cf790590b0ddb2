"""One look for every figure: template, colours, escaping, captions, hover text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Okabe and Ito's palette, yellow left out: too faint on white. No colour stands alone (dash and marker vary).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot", "solid", "dash")  # "dot" is the control's
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down")
UNSIGNED, SIGNED = "Viridis", "RdBu_r"  # neither has a grey, which means "not told from the control"
INK, GREY, MISSING = "#1b1b1b", "#6b6b6b", "#f2f2f2"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif"

_AXIS = {
    "showline": True,
    "linecolor": GREY,
    "ticks": "outside",
    "tickcolor": GREY,
    "ticklen": 4,
    "gridcolor": "#ececec",
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 10},
}
MIN_GROUPS, BOOTSTRAP_FROM = 5, 30  # how many groups an interval needs, and a bootstrap: as the statistics have it
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 60, "r": 20, "t": 60, "b": 50},
        "colorway": COLOURS,
        "hoverlabel": {"align": "left", "font": {"size": 13, "family": FONT}},
        "hovermode": "closest",
        "dragmode": False,  # a finger that scrolls the page must not zoom; the mode bar still zooms
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "itemwidth": 44, "font": {"size": 12.5}},
        "annotationdefaults": {"font": {"size": 13}},
    }
)


def layout_of(figure: Any) -> Any:
    """A figure's layout: plotly makes its attributes as it runs, where no type can see them."""
    return figure.layout


def meta_of(figure: Any) -> dict[str, Any]:
    """What a figure says of itself for its page: title, caption, table, rows drawn."""
    return dict(layout_of(figure).meta or {})


def traces_of(figure: Any) -> Any:
    """A figure's traces, for the same reason."""
    return figure.data


def plain(text: Any) -> str:
    """Text that plotly shows as it is: plotly reads names, ticks and labels as (a little) HTML."""
    return html.escape(str(text), quote=False)


def token_label(token: str) -> str:
    """A token as a label: escaped for plotly, newline as ↵, leading spaces as ␣, what cannot be seen named."""
    body = token.lstrip(" ")
    shown = "␣" * (len(token) - len(body)) + body.replace("\n", "↵").replace("\t", "⇥")
    shown = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 else c for c in shown)
    if shown and not any(c.isprintable() for c in shown):  # a no-break space, a zero-width joiner
        shown = " ".join(f"U+{ord(c):04X}" for c in shown)
    return plain(shown)


def number(value: Any) -> str:
    """A number with four digits; a missing one says so."""
    if value is None or pd.isna(value):
        return "missing"
    if isinstance(value, (int,)) or float(value).is_integer():
        return f"{int(value):,}" if abs(value) < 1e7 else f"{value:.4g}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def digits(values: Iterable[Any]) -> list[float | None]:
    """Values as a figure keeps them: 5 significant digits; None where there is none."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in map(float, values)]


def sample(frame: pd.DataFrame, interval: str = "") -> str:
    """The caption's ending: "n = 64 in 12 groups. Bands: 95 % …" as far as the table knows."""
    frame = frame[frame["value"].notna()] if "value" in frame else frame
    spans = {column: _span(frame[column]) for column in ("n", "n_groups") if column in frame}
    said = f"n\u00a0=\u00a0{spans['n']}" if spans.get("n") else ""
    if said and spans.get("n_groups"):
        said += f" in {spans['n_groups']} groups"
    known = "lower" in frame and bool(frame["lower"].notna().any())
    ending = f"{interval}: 95\u00a0% interval, {_made_of(frame)}." if interval and known else ""
    if interval and not known and spans.get("n_groups"):
        ending = f"No interval: fewer than {MIN_GROUPS} groups."
    return " ".join(part for part in (f"{said}." if said else "", ending) if part)


def _made_of(frame: pd.DataFrame) -> str:
    """How the intervals of these rows were made, by their groups."""
    groups = frame["n_groups"] if "n_groups" in frame else pd.Series(dtype=float)
    few = (groups >= MIN_GROUPS) & (groups < BOOTSTRAP_FROM)
    ways = [f"Student on sums of fewer than {BOOTSTRAP_FROM} groups"] if few.any() else []
    ways += ["bootstrap over groups"] if (groups >= BOOTSTRAP_FROM).any() or not ways else []
    none = [f"none below {MIN_GROUPS} groups"] if (groups < MIN_GROUPS).any() else []
    return "; ".join(ways + none)


def _span(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    low, high = number(values.min()), number(values.max())
    return low if low == high else f"{low} to {high}"


def common_unit(frame: pd.DataFrame, otherwise: str) -> str:
    """The unit of these rows where they share one."""
    units = frame["unit"].dropna().unique() if "unit" in frame else []
    return str(units[0]) if len(units) == 1 and units[0] else otherwise


def axis_title(column: str) -> str:
    """A column as an axis title; states count residuals, so 0 is what enters the first layer."""
    return {"state": "state (0 = embeddings)"}.get(column, plain(column.replace("_", " ")))


def captioned(
    figure: go.Figure,
    title: str,
    caption: str,
    table: str,
    where: Mapping[str, Any] | None = None,
    **more: Any,
) -> go.Figure:
    """The figure with its title, and in `layout.meta` what the page needs: caption, table, rows drawn.

    where: column -> value (or list of values) of the table's rows that the figure draws; None: all rows.
    more: "theme" (the fold that it lies in; "main": open), the caption in parts ("seen", "read", "sample"), and
    "claims", the names of those that it shows the evidence for.
    """
    meta = {**meta_of(figure), "title": title, "caption": caption, "table": table}
    figure.update_layout(title_text=plain(title), meta={**meta, "where": dict(where or {}), **more})
    return figure


def sized(figure: go.Figure, height: int, min_width: int = 0) -> go.Figure:
    """The figure with a height, and the least width (px) at which it is legible: below, a page scrolls."""
    figure.update_layout(height=height, meta={**meta_of(figure), "min_width": min_width})
    return figure


ACROSS = 4  # panels beside each other at most; more go below


def grid_of(count: int) -> tuple[int, int]:
    """Rows and columns of so many panels side by side: 5 are 3 and 2."""
    rows = -(-count // ACROSS)
    return rows, -(-count // rows)


def place(index: int, count: int) -> dict[str, Any]:
    """Row and column of panel `index` (from 1) of `count` side by side."""
    row, column = divmod(index - 1, grid_of(count)[1])
    return {"row": row + 1, "col": column + 1}


BETWEEN = 74  # px between two rows of panels: ticks, the axis title, the next panel's title


def panels(names: Sequence[Any], *, stacked: bool, gap: float, share_values: bool = True, row: int = 290) -> go.Figure:
    """An empty figure with a panel per name, its title over its left edge; stacked, or side by side (see `place`).

    row: px of a panel's height, where there are several rows of them.
    """
    count = len(names)
    rows, columns = (count, 1) if stacked else grid_of(count)
    shared: dict[str, Any] = {"shared_xaxes": stacked, "shared_yaxes": "all" if share_values and not stacked else False}
    spacing: dict[str, Any] = {"vertical_spacing" if stacked else "horizontal_spacing": gap}
    if not stacked and rows > 1:
        spacing["vertical_spacing"] = BETWEEN / (rows * row + (rows - 1) * BETWEEN)
    titles = [plain(name) for name in names]
    specs = [[{} if stacked or r * columns + c < count else None for c in range(columns)] for r in range(rows)]
    figure = make_subplots(rows, columns, subplot_titles=titles, specs=specs, **shared, **spacing)
    shown = [axis.domain[0] for axis, title in zip(figure.select_xaxes(), titles, strict=True) if title]
    for title, left in zip(layout_of(figure).annotations, shown, strict=True):
        title.update(x=left, xanchor="left", font_size=13.5 if columns < ACROSS else 11.5)
    return figure.update_layout(template=TEMPLATE)


def check_rows(frame: pd.DataFrame, keys: Iterable[str | None]) -> None:
    """ValueError where there is nothing to draw, or where two rows would be drawn in one place."""
    if frame.empty:
        raise ValueError("nothing to draw: the table has no such rows")
    place = [key for key in keys if key and key in frame]
    twice = frame[frame.duplicated(place)]
    if len(twice):
        first = ", ".join(f"{key} {twice[key].iloc[0]}" for key in place)
        raise ValueError(f"two rows for {first}: choose among them, or draw them in panels")


def parts(frame: pd.DataFrame, panel: str | None) -> list[tuple[Any, pd.DataFrame]]:
    """The rows of each panel in the table's order; one nameless panel without `panel`, or of the one condition."""
    if panel is None or (panel == "condition" and frame[panel].nunique(dropna=False) == 1):
        return [("", frame)]
    return list(frame.groupby(panel, sort=False, dropna=False))


def legend_once(figure: go.Figure, series: Sequence[Any]) -> None:
    """Each series once in the legend, by its first trace that has points: an empty one is not shown there."""
    named: set[str] = set()
    traces: Any = figure.data  # of many types, which pyright cannot tell apart
    for trace in traces:
        if trace.legendgroup is None:
            continue
        trace.showlegend = len(series) > 1 and len(trace.x) > 0 and trace.legendgroup not in named
        named |= {trace.legendgroup} if trace.showlegend else set()


ENTRY = 19  # px, a line of the legend on a phone, where each name has its own
BARE = 320  # px of a figure without its legend: axis, margins and 200 px of plot


def legend_below(figure: go.Figure) -> go.Figure:
    """The legend under the plot, clear of the axis title; the figure grows where many names would eat the plot."""
    traces: Any = figure.data
    names = [trace for trace in traces if trace.showlegend]
    if len(names) < 2:
        figure.update_layout(showlegend=bool(names) and not str(names[0].legendgroup).startswith("series"))
    legend = {"yref": "container", "y": 0, "yanchor": "bottom", "traceorder": "normal"}
    return figure.update_layout(legend=legend, height=max(layout_of(figure).height, BARE + ENTRY * len(names)))
