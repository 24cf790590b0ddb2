"""Charts over pictures: one cell per image token, laid over the picture that it comes from."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from .style import COLOURS, UNSIGNED, grid_of, hover, panels, place, plain, sized


def picture_maps(frame: pd.DataFrame, pictures: pd.DataFrame, *, flag: str, unit: str) -> go.Figure:
    """Pictures side by side, each cell coloured by its value; cells with `flag` are framed.

    frame: example row column value and the flag. pictures: example png.
    """
    figure = panels(list(pictures["example"]), stacked=False, gap=0.03, share_values=False)
    for index, (example, png) in enumerate(zip(pictures["example"], pictures["png"], strict=True), 1):
        part = frame[frame["example"] == example]
        shape = part["row"].max() + 1, part["column"].max() + 1
        on_grid(figure, png, shape, index, len(pictures))
        text = [hover(record, ["row", "column", flag], "value") for record in part.to_dict("records")]
        where = {"x": part["column"], "y": part["row"], **place(index, len(pictures))}
        figure.add_heatmap(
            **where,
            z=part["value"],
            text=text,
            hoverinfo="text",
            name=plain(example),
            opacity=0.5,
            coloraxis="coloraxis",
        )
        framed = part[part[flag]]
        marker = {"symbol": "square-open", "size": 16, "color": COLOURS[1], "line": {"width": 3}}
        where |= {"x": framed["column"], "y": framed["row"]}
        figure.add_scatter(**where, mode="markers", marker=marker, hoverinfo="skip", showlegend=False)
    bar = {"title": {"text": plain(unit)}, "thickness": 12}
    figure.update_layout(coloraxis={"colorscale": UNSIGNED, "cmin": 0, "colorbar": bar}, margin_r=90)
    return sized(figure, 330 * grid_of(len(pictures))[0], 900)


def on_grid(figure: go.Figure, png: str, shape: tuple[int, int], index: int, count: int) -> None:
    """A picture under panel `index` of `count`: cell (row, column) of `shape` lies over its part of the picture."""
    axis = "" if index == 1 else str(index)
    lies = {"x": -0.5, "y": -0.5, "sizex": shape[1], "sizey": shape[0], "xref": f"x{axis}", "yref": f"y{axis}"}
    figure.add_layout_image(source=f"data:image/png;base64,{png}", sizing="stretch", layer="below", **lies)
    grid_axes(figure, shape, index, count)


def grid_axes(figure: go.Figure, shape: tuple[int, int], index: int, count: int) -> None:
    """Axes of a grid of cells, without ticks, the first row on top."""
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, **place(index, count)}
    figure.update_xaxes(range=[-0.5, shape[1] - 0.5], **bare)
    figure.update_yaxes(range=[shape[0] - 0.5, -0.5], **bare)
