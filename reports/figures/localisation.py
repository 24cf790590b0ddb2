"""Figures of localisation: scores by layer and method, heads, maps on some pictures."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines, picture_maps
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import views

CHANCE = {"AUROC": 0.5, "attention ratio": 1.0}


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Methods at the layer that they choose, then layer by layer, answers apart, heads, maps on pictures."""
    return draw_all(FIGURES, tables)


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each method, itself and its controls."""
    rows, score = first_condition(rows), rows["score"].iloc[0]
    reference = [(CHANCE[score], "", "")] if score in CHANCE else []
    shown = rows.assign(line="the map")
    return lines(shown, "layer", by="line", panel="method", y_title=score, reference=reference, markers=False)


def answers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A line for right and one for wrong answers, a panel for each map."""
    rows, score = first_condition(rows), rows["score"].iloc[0]
    shown = rows.assign(answers=rows["answers"] + " answers")
    return lines(shown, "layer", by="answers", panel="method", y_title=score, reference=[(CHANCE[score], "", "")])


def methods(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = first_condition(rows)
    return dots(rows, "method", panel="score", x_title="score")


def by_answer(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A dot for right and one for wrong answers."""
    rows = first_condition(rows)
    return dots(rows.assign(answers=rows["answers"] + " answers"), "method", by="answers", panel="score")


def masks(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "method", panel="marks", x_title="IoU")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(views(rows), panel="condition", view="view", unit=str(rows["score"].iloc[0]))


def on_pictures(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    pictures = tables["pictures"]
    return picture_maps(rows, pictures[pictures["example"].isin(rows["example"])], flag="inside", unit="of the largest")


OF_STATES = ("image-token lens", "TAM", "TAM before its removal", "token activation", "token activation, phase")
LAYERS = (
    "Of each map over the picture its {} against the box of what is asked for, layer by layer: what attention says in "
    "the layer, or the state that enters it; on the right the last state."
)


# Controls of one kind share a mark: more kinds than marks would not be told apart.
ALIKE = {
    "random heads of the same layers": "the best of other heads",
    "the mean of all heads": "the best of other heads",
    "heads of the largest image sum": "the best of other heads",
    "random words": "the best of other words or changes",
    "the words in other orders": "the best of other words or changes",
    "what attention leaves": "the best of other words or changes",
    "any change of attention": "the best of other words or changes",
    "a box in the centre": "the better of box and bell in the centre",
    "a Gaussian in the centre": "the better of box and bell in the centre",
}


def at_a_glance(rows: pd.DataFrame) -> pd.DataFrame:
    """The three scores that read most easily; of each kind of controls the one that scores best."""
    shown = rows[rows["score"].isin(["AUROC", "IoU", "pointing game"])]
    shown = shown.assign(control=shown["control"].replace(ALIKE))
    best = shown.sort_values("value", kind="stable").drop_duplicates(
        ["condition", "method", "score", "control"], keep="last"
    )
    return best.sort_index()


def of_attention(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["method"].isin(OF_STATES)]


def of_states(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["method"].isin(OF_STATES)]


FIGURES = [
    Drawing(
        "methods",
        "methods",
        {"measure": "score"},
        "Which maps find what is asked for?",
        methods,
        "Scores of each map against the box, at the layer whose AUROC half of the groups choose, on the other half; "
        "localization heads, TAG, pure-grad and occlusion have one map alone, which no box chooses.",
        "A dot to the right of all its grey marks finds the box by what is asked, not by where things lie.",
        interval="Whiskers",
        control="Grey",
        select=at_a_glance,
        claims=("few heads localise", "interference", "gaze shift", "words ground", "gradients help"),
    ),
    Drawing(
        "layers",
        "scores",
        {"score": "AUROC"},
        "Where in depth attention finds what is asked for",
        layers,
        LAYERS.format("AUROC"),
        "½ is chance. A line above its dotted ones finds the box by what is asked, not by where things lie.",
        "layer by layer",
        interval="Bands",
        control="Dotted",
        select=of_attention,
        claims=("contrast",),
    ),
    Drawing(
        "layers-states",
        "scores",
        {"score": "AUROC"},
        "Where in depth the image tokens' states find what is asked for",
        layers,
        LAYERS.format("AUROC"),
        "½ is chance. A line above its dotted ones finds the box by what is asked, not by where things lie.",
        "layer by layer",
        interval="Bands",
        control="Dotted",
        select=of_states,
    ),
    Drawing(
        "methods-by-answer",
        "methods_by_answer",
        {},
        "Do maps find it where the answer is wrong?",
        by_answer,
        "The same scores at the same layers, right and wrong answers apart.",
        "Two dots alike: the map finds it though the answer is wrong.",
        "answers apart",
        interval="Whiskers",
        control="Grey",
        select=lambda rows: rows[rows["score"].isin(["AUROC", "pointing game"])],
    ),
    Drawing(
        "masks",
        "masks",
        {},
        "Do marked regions fit what is asked for?",
        masks,
        "Overlap (IoU) with the box of what is asked for: of the cells that CARVE keeps or of TAG's surest region, and "
        "of the box around them.",
        "A dot to the right of its grey marks fits this box better than others.",
        "marked regions",
        interval="Whiskers",
        control="Grey",
    ),
    Drawing(
        "answers",
        "answers",
        {"score": "attention ratio"},
        "Does it look there when it answers wrong?",
        answers,
        "Attention on the box over the mean of all boxes of that size, right and wrong answers apart.",
        "Above 1: more than on other places. Two lines alike: it looks there though it answers wrong.",
        interval="Bands",
        control="Dotted",
        claims=("looks at it", "looks at it when wrong"),
    ),
    Drawing(
        "heads",
        "heads",
        {"score": "AUROC"},
        "Which heads look at what is asked for",
        heads,
        "AUROC of each head's own map, and of the same against other examples' boxes or under another question.",
        "Bright, and dark under its controls: the head follows the question.",
        grey="Grey: not told from a control.",
    ),
    *(
        Drawing(
            name,
            "on_pictures",
            {"method": method},
            f"{title} on some pictures",
            on_pictures,
            f"{seen}, over the first pictures: illustrations, not a measurement.",
            "Framed: the cells of the box.",
            "pictures",
        )
        for name, method, title, seen in (
            ("on-pictures-heads", "localization heads", "Localization heads", "The mean map of the localization heads"),
            (
                "on-pictures-relative",
                "relative attention",
                "Relative attention",
                "Relative attention, middle layers",
            ),
            (
                "on-pictures-gaze",
                "gaze shift",
                "Gaze shift",
                "Where attention moves to as the words are read, middle layers",
            ),
            ("on-pictures-tag", "TAG", "TAG", "The mean map of the heads that look most from the question's words"),
            ("on-pictures-tam", "TAM", "Token activation maps", "TAM of the answer's word at the last state"),
        )
    ),
    *(
        Drawing(
            name,
            "scores",
            {"score": score},
            f"{score[0].upper()}{score[1:]} by layer",
            layers,
            LAYERS.format(score),
            "A line above its dotted ones finds the box by what is asked.",
            "other scores",
            interval="Bands",
            control="Dotted",
        )
        for name, score in (
            ("layers-ratio", "attention ratio"),
            ("layers-share", "share in the box"),
            ("layers-pointing", "pointing game"),
            ("layers-iou", "IoU"),
        )
    ),
    Drawing(
        "heads-ratio",
        "heads",
        {"score": "attention ratio"},
        "Which heads look at what is asked for, by attention ratio",
        heads,
        "Attention ratio of each head's own map, and of the same against other examples' boxes or under another "
        "question.",
        "Above 1 and above its controls: the head follows the question.",
        "other scores",
        grey="Grey: not told from a control.",
    ),
]
