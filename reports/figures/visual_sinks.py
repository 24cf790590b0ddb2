"""Figures of sinks among image tokens: where they lie, what they take and give, what masking them costs."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from ..charts import head_map, heat_map, lines, picture_maps, scatter
from .drawing import Drawing, Tables
from .views import views

Draw = Callable[[pd.DataFrame, Tables], go.Figure | None]


def by_token(y_title: str) -> Draw:
    """A line per kind of token, a panel per condition."""
    return lambda rows, _: lines(rows, "state", by="token", panel="condition", y_title=y_title)


def heads(unit: str) -> Draw:
    return lambda rows, _: head_map(views(rows), panel="condition", unit=unit)


def on_image(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The patches as they lie: square cells, the first row on top."""
    figure = heat_map(rows, "column", "row", panel="condition", unit="φ")
    figure.update_yaxes(title_text="row of patches", autorange="reversed", constrain="domain")
    for number, axis in enumerate(figure.select_yaxes(), start=1):
        axis.scaleanchor = "x" if number == 1 else f"x{number}"
    figure.update_xaxes(constrain="domain", dtick=1)
    figure.update_xaxes(title_text="column of patches", col=1)
    rows_of = rows["row"].nunique()
    panels = rows["condition"].nunique()
    return figure.update_layout(height=120 + panels * max(290, min(26 * rows_of, 460)))


def on_pictures(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    first = rows["condition"].iloc[0]
    pictures = tables["pictures"]
    shown = rows[rows["condition"] == first]
    return picture_maps(shown, pictures[pictures["condition"] == first], flag="sink", unit="φ")


def mass_and_ratio(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """A point per head: how much it looks at the image, and how much of that is on other tokens than sinks."""
    keys = ["condition", "layer", "head"]
    wide = rows.pivot_table("value", keys, "measure").dropna().reset_index()
    if wide.empty or not {"visual mass", "non-sink ratio"} <= set(wide):
        return None
    third = (wide["layer"] * 3 // (wide["layer"].max() + 1)).map(dict(enumerate(("early", "middle", "late"))))
    wide = wide.assign(name=wide["layer"].astype(str) + "." + wide["head"].astype(str), layers=third + " third")
    titles = ("attention on the image", "non-sink ratio")
    return scatter(wide, "visual mass", "non-sink ratio", "name", titles=titles, by="layers", panel="condition")


def masking(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(series="image tokens with φ ≥ τ")
    figure = lines(rows, "tau", by="series", panel="condition", y_title="share right")
    return figure.update_xaxes(title_text="τ: tokens of larger φ are masked")


VISUAL = [
    Drawing(
        "patches",
        "patches",
        {},
        "Where in the image φ is large",
        on_image,
        "Mean φ of the patches at one middle state, laid out as they lie in the image.",
        "Bright: sinks. In a mean over pictures a patch can stay bright only by its place, not by what it shows.",
    ),
    Drawing(
        "visual-phi",
        "visual",
        {"measure": "φ"},
        "φ inside the image, beside the first token's",
        by_token("φ"),
        "φ of the first token of the prompt, and of the image tokens with the largest and with the median φ.",
        "A visual sink has a φ near the first token's.",
        interval="Bands",
    ),
    Drawing(
        "masking",
        "masking",
        {"measure": "accuracy"},
        "Accuracy when image tokens are masked",
        masking,
        "Share of right answers when nobody outside of the image reads the image tokens with φ ≥ τ at the middle state "
        "(in all layers), and when as many random image tokens are masked, over τ.",
        "A line above the dotted one: these tokens are needed less than others. τ to the left masks more tokens.",
        interval="Bands",
        control="Dotted",
        claims=("masking visual sinks",),
    ),
    Drawing(
        "on-pictures",
        "on_pictures",
        {},
        "Sinks on some pictures",
        on_pictures,
        "φ of every patch of a few pictures at the middle state, laid over them; chosen by their place in the task: "
        "illustrations, not a measurement.",
        "A framed patch has φ ≥ τ: where no frame is, this picture has no visual sink there.",
    ),
    Drawing(
        "visual-sinks",
        "visual",
        {"measure": "sinks"},
        "How many image tokens are sinks",
        by_token("share of image tokens"),
        "Share of the image tokens with φ ≥ τ.",
        "Where it is 0, this model has no visual sinks by this criterion.",
        "image tokens",
        "Bands",
        claims=("visual sinks",),
    ),
    Drawing(
        "visual-place",
        "visual",
        {"measure": "on objects"},
        "Do visual sinks lie on objects?",
        by_token("share on objects"),
        "Share of the visual sinks that lie on patches of an object.",
        "At the dotted line they lie there as often as any patch.",
        "image tokens",
        "Bands",
        "Dotted in the same colour",
    ),
    Drawing(
        "contribution",
        "visual",
        {"measure": "contribution"},
        "What tokens contribute to the last position",
        by_token("norm of the contribution"),
        "Norm of what one token adds to the last position through all heads of a layer, ‖Σ A·v·W_O‖, mean over the "
        "tokens of a kind.",
        "A sink that only takes attention would lie low; a high line gives much.",
        "image tokens",
        "Bands",
    ),
    Drawing(
        "visual-mass",
        "visual_heads",
        {"measure": "visual mass"},
        "How much attention each head gives to the image",
        heads("attention on the image"),
        "Mean attention of the last position, head by head, on all image tokens.",
        "Bright: the head looks at the image.",
        "by head",
    ),
    Drawing(
        "nonsink",
        "visual_heads",
        {"measure": "non-sink ratio"},
        "How much of that is on other tokens than sinks",
        heads("non-sink ratio"),
        "Visual non-sink ratio: attention on image tokens that are no sinks over attention on all image tokens.",
        "Heads with much attention on the image and a large ratio are image-centric.",
        "by head",
    ),
    Drawing(
        "image-centric",
        "visual_heads",
        {},
        "Which heads are image-centric",
        mass_and_ratio,
        "Every head of the last position: its mean attention on the image, and the share of it on image tokens that "
        "are no sinks.",
        "Up and to the right: image-centric. Intervals are in the table.",
        "by head",
    ),
]
