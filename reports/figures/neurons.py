"""Figures of neurons: where those of one label lie, what their removal does, how specific they stay elsewhere."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, heat_map, lines
from ..charts.style import sized
from .drawing import Drawing, Tables, draw_all, first_condition

HEIGHT = 360  # px: so few rows would be flat on a phone


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The removal matrix, layers, held-out probabilities, neurons that matter to one label."""
    return draw_all(FIGURES, tables)


def removal(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Removed in rows, read in columns; what is done to the neurons, and the control, by buttons."""
    shown = first_condition(rows).sort_values(["removed", "evaluated"], ascending=[False, True], kind="stable")
    kind = shown["control"].where(shown["control"] != "", shown["how"]) if "control" in shown else shown["how"]
    shown = shown.assign(kind=kind).rename(columns={"evaluated": "texts in", "removed": "without neurons of"})
    order = shown.sort_values("kind", key=lambda column: column != "set to 0", kind="stable")
    figure = heat_map(order, "texts in", "without neurons of", view="kind", signed=True, unit="nats a token")
    return sized(figure, HEIGHT)


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layer", by="label", y_title="share of the layer's neurons", markers=False)


def held_out(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "label", x_title="share of tokens", zero=True)


def important(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "label", x_title="share of texts", zero=True)


def explained(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Neurons in rows, texts in columns; the control by buttons."""
    shown = first_condition(rows).sort_values(["label", "texts"], ascending=[False, True], kind="stable")
    shown = shown.assign(kind=shown["control"].where(shown["control"] != "", "measured"))
    shown = shown.sort_values("kind", key=lambda column: column != "measured", kind="stable")
    shown = shown.drop(columns="control").rename(columns={"texts": "texts in", "label": "neurons of"})
    return sized(heat_map(shown, "texts in", "neurons of", view="kind", signed=True, unit="σ"), HEIGHT)


FIGURES = [
    Drawing(
        "removal",
        "removal",
        {},
        "What texts lose without the neurons of each language or domain",
        removal,
        "How much more the loss is without the neurons that are specific to a language or domain (rows), for the "
        "texts of each (columns). Neurons were chosen on other documents. Buttons: set to 0, set to their mean, as "
        "many random neurons of like activity set to 0.",
        "Red on the diagonal alone: each needs its own neurons. A red row: its neurons serve others too.",
        claims=("removal hurts its label",),
    ),
    Drawing(
        "layers",
        "layers",
        {},
        "Where the neurons of one language or domain lie",
        layers,
        "Share of a layer's neurons that are specific to one: active on its tokens, hardly on the others'.",
        "Where the dotted line is near 0, no neuron is as specific with labels permuted among documents.",
        interval="Bands",
        control="Dotted",
        claims=("at the ends",),
    ),
    Drawing(
        "held_out",
        "held_out",
        {},
        "How specific they stay on other documents",
        held_out,
        "Share of their own tokens on which they are active minus that of the other languages or domains, mean over "
        "neurons that were chosen on other documents.",
        "Right of the grey ticks they are specific, and not just often active.",
        "by language, domain",
        interval="Whiskers",
        control="Grey",
        claims=("neurons of one label",),
    ),
    Drawing(
        "important",
        "important",
        {},
        "Neurons that matter to the texts of one language or domain alone",
        important,
        "Neurons whose removal changes the MLP's output among the most of their layer, in 19 of 20 texts of one "
        "and of no other, as chosen on other documents: to how many more of its texts they matter than of the others.",
        "0: they matter to all alike.",
        interval="Whiskers",
        control="Grey",
        claims=("important to one label",),
    ),
    Drawing(
        "explained",
        "explained",
        {},
        "How far each language or domain explains its neurons",
        explained,
        "SASC score: what neurons pass on in the texts of a language or domain (columns) minus that in all other "
        "texts, in standard deviations over n-grams; mean over the neurons that are specific to one (rows), chosen on "
        "other documents. Button: labels permuted.",
        "Red on the diagonal alone: each label explains its own neurons and no others. Rows sum to about 0, since "
        "each text is for one label and against the others.",
        "by language, domain",
        claims=("a label explains its neurons",),
    ),
]
