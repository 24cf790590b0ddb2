"""Figures of neurons, by part of the model: where those of one label lie, what their removal does, what lasts."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, heat_map, lines
from ..charts.style import sized
from .drawing import Drawing, Tables, draw_all, first_condition

HEIGHT = 360  # px: so few rows would be flat on a phone
MAP, BESIDE = 230, 130  # px, of one map where there are several, and of what stands around them


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The removal matrix, layers, neurons that matter to one label and their layers, held-out probabilities."""
    return draw_all(FIGURES, tables)


def removal(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Removed in rows, read in columns; what is done to the neurons, and the control, by buttons."""
    shown = first_condition(rows).sort_values(["removed", "evaluated"], ascending=[False, True], kind="stable")
    kind = shown["control"].where(shown["control"] != "", shown["how"]) if "control" in shown else shown["how"]
    shown = shown.assign(kind=kind).rename(columns={"evaluated": "texts of", "removed": "without neurons of"})
    order = shown.sort_values("kind", key=lambda column: column != "set to 0", kind="stable")
    panel = _several(order)
    figure = heat_map(
        order, "texts of", "without neurons of", view="kind", signed=True, unit="nats a token", panel=panel
    )
    return sized(figure, HEIGHT if panel is None else MAP * order[panel].nunique() + BESIDE)


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    title = "share of the layer's neurons"
    return lines(shown, "layer", by="label", y_title=title, markers=False, panel=_several(shown))


def _with_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the projector, which is one layer."""
    return rows[rows["module"] != "projector"] if "module" in rows else rows


def important_layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layer", by="module", y_title="share of the layer", markers=False)


def held_out(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return _dots(rows, "share of tokens")


def important(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return _dots(rows, "share of texts")


def _dots(rows: pd.DataFrame, title: str) -> go.Figure:
    shown = first_condition(rows)
    return dots(shown, "label", by=_several(shown), x_title=title, zero=True)


def _several(rows: pd.DataFrame) -> str | None:
    """The column of the parts of the model, where there are several."""
    return "module" if "module" in rows and rows["module"].nunique() > 1 else None


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
        "What texts lose without the neurons of each label",
        removal,
        "How much more the loss is without the neurons that are specific to a language, domain or kind of picture "
        "(rows), for the texts of each (columns; with pictures, the answer's loss). Neurons were chosen on other "
        "documents. Buttons: set to 0, set to their mean, as many random neurons of like activity set to 0.",
        "Red on the diagonal alone: each needs its own neurons. A red row: its neurons serve others too.",
        claims=("removal hurts its label",),
    ),
    Drawing(
        "layers",
        "layers",
        {},
        "Where the neurons of one label lie",
        layers,
        "Share of a layer's neurons that are specific to a language, domain or kind of picture: active on its tokens, "
        "hardly on the others'. With pictures: at words and at image tokens of the decoder, at patches in the tower; "
        "the projector has one layer, whose shares stand in the table.",
        "Where the dotted line is near 0, no neuron is as specific with labels permuted among documents.",
        interval="Bands",
        control="Dotted",
        select=_with_layers,
        claims=("at the ends",),
    ),
    Drawing(
        "held_out",
        "held_out",
        {},
        "How specific they stay on other documents",
        held_out,
        "Share of their own tokens (or patches) on which they are active minus that of the other labels, mean over "
        "neurons that were chosen on other documents.",
        "Right of the grey ticks they are specific, and not just often active.",
        "on other documents",
        interval="Whiskers",
        control="Grey",
        claims=("neurons of one label", "neurons of one kind of picture", "image tokens of one kind"),
    ),
    Drawing(
        "important",
        "important",
        {},
        "Neurons that matter to the texts of one label alone",
        important,
        "Neurons whose removal changes the MLP's output among the most of their layer (channels of queries and keys: "
        "the attention), in 19 of 20 texts of one label and of no other, as chosen on other documents: to how many "
        "more of its texts they matter than of the others.",
        "0: they matter to all alike.",
        interval="Whiskers",
        control="Grey",
        claims=("important to one label",),
    ),
    Drawing(
        "important_layers",
        "important_layers",
        {},
        "In which layers they lie: MLP neurons, queries and keys",
        important_layers,
        "The same, summed over the neurons or channels of a layer that were chosen, in units of all that it has.",
        "High at both ends and low between: each label has its own where text is read and where it is written.",
        interval="Bands",
        control="Dotted",
        claims=("channels at the ends",),
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
