"""Figures of the subject card: pictures with answers, accuracy by kind, hallucination, text abilities."""

from __future__ import annotations

from textwrap import wrap

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..charts import dots, lines
from ..charts.style import COLOURS, layout_of, plain, sized
from .drawing import Drawing, Tables, draw_all

COLUMNS = 4  # pictures in a row
NAMES = {"left_right": "left or right", "above_below": "above or below", "coloured_existence": "coloured existence"}


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Pictures; accuracy by kind and difficulty, with controls; POPE; captions; text."""
    return draw_all(FIGURES, tables)


def pictures(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Each scene with its question, the true answer and what was said."""
    count = len(rows)
    lines = -(-count // COLUMNS)
    titles = [_title(row) for row in rows.to_dict("records")]
    figure = make_subplots(
        lines, COLUMNS, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=0.36 / lines
    )
    for index, row in enumerate(rows.to_dict("records")):
        where = {"row": index // COLUMNS + 1, "col": index % COLUMNS + 1}
        figure.add_image(source=row["picture"], hoverinfo="skip", **where)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    for note in layout_of(figure).annotations:
        note.update(font_size=11, yshift=2)
    figure.update_layout(margin_t=130)
    return sized(figure, 345 * lines, 1000)


def _title(row: dict) -> str:
    """A few short lines above a picture."""
    right = row["value"] == 1
    said = f"{'✓' if right else '✗'} says {row['said']}" + ("" if right else f" – truth: {row['truth']}")
    colour = COLOURS[2] if right else COLOURS[1]
    asked = _short(f"{row['difficulty']} · {row['question']}")
    return f"<i>{asked}</i><br><span style='color:{colour}'>{_short(said)}</span>"


def _short(text: str, width: int = 36) -> str:
    """Text in lines of at most this width."""
    return "<br>".join(plain(line) for line in wrap(text, width))


def by_kind(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = rows.assign(kind=rows["kind"].replace(NAMES))
    return dots(rows.drop(columns="control"), "kind", "difficulty").update_xaxes(range=[-0.02, 1.02])


def controls(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    return dots(rows.assign(kind=rows["kind"].replace(NAMES)), "kind").update_xaxes(range=[-0.02, 1.02])


def with_controls(rows: pd.DataFrame) -> pd.DataFrame:
    """The difficulty on which images were swapped."""
    levels = rows.loc[rows["control"] == "swapped image", "difficulty"].unique()
    return rows[rows["difficulty"].isin(levels)]


def pope(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    return dots(rows, "difficulty", "set").update_xaxes(range=[-0.02, 1.02])


def measured(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    return dots(rows, "difficulty", "measure")


def text(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = rows.assign(task=rows["source"], panel=rows["measure"])
    return dots(rows, "task", "norms", panel="panel")


def losses(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    return lines(rows, "step", panel="stage", log_y=True, markers=False)


def checked(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies on validation scenes in the last stage."""
    return rows[rows["measure"].str.startswith("validation") & rows["stage"].str.startswith("answers")]


def learning(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    kinds = rows["measure"].str.removeprefix("validation ").replace(NAMES)
    return lines(rows.assign(kind=kinds), "step", by="kind", panel="stage", y_title="share right")


FIGURES = [
    Drawing(
        "accuracy",
        "accuracy",
        {"control": ""},
        "Exact answers by kind and difficulty",
        by_kind,
        "Share of answers that are the true one and nothing else.",
        "1: every answer.",
        interval="Whiskers",
        claims=("basic 90", "basic 95", "relations"),
    ),
    Drawing(
        "pictures",
        "samples",
        {},
        "What it sees and says",
        pictures,
        "Scenes of the run with a question each; wrong answers where there are some, so it is no fair sample.",
        "✓ the true answer, ✗ another one.",
    ),
    Drawing(
        "controls",
        "accuracy",
        {},
        "With and without the image",
        controls,
        "The same questions with the true image (dots), and with another scene's, with plain grey, and without a "
        "model: the best constant answer to each wording (ticks).",
        "A dot right of its ticks answers from the image.",
        interval="Whiskers",
        control="Grey ticks",
        select=with_controls,
        claims=("swapped",),
    ),
    Drawing(
        "pope",
        "pope",
        {"measure": "F1"},
        "Existence, and what is expected to exist (POPE)",
        pope,
        "F1 of yes, for three sets that differ in the absent shapes that they ask for.",
        "1: every yes is right and none is missing.",
        interval="Whiskers",
        claims=("pope",),
    ),
    Drawing(
        "false-alarms",
        "pope",
        {"measure": "false alarms"},
        "Absent, but said to be there",
        pope,
        "Share of absent shapes that are affirmed.",
        "0: none.",
        "hallucination",
        "Whiskers",
    ),
    Drawing(
        "captions",
        "captions",
        {"unit": "share"},
        "Captions",
        measured,
        "CHAIR_I: object words without object; CHAIR_S: captions with one; recall: objects named; object set: captions "
        "that name exactly the coloured objects that are there.",
        "CHAIR: less is better; the others: more.",
        "hallucination",
        "Whiskers",
        claims=("object set", "CHAIR clear", "CHAIR hard", "CHAIR bound"),
    ),
    Drawing(
        "text",
        "text",
        {},
        "SmolLM2's own abilities, before and after",
        text,
        "The same prompts with SmolLM2's norms and with those of this model.",
        "Where the two dots lie on each other, nothing was lost.",
        "text",
        "Whiskers",
        select=lambda rows: rows[rows["norms"] != "change"],
        claims=("IOI", "NLL"),
    ),
    Drawing(
        "learning",
        "training",
        {},
        "How it was learned",
        learning,
        "Exact answers on a few clear validation scenes in the two stages that go through the language model.",
        "1: every answer.",
        "training",
        select=checked,
    ),
    Drawing(
        "losses",
        "training",
        {"measure": "loss"},
        "Losses of all stages",
        losses,
        "Loss of single steps: patches named by the tower, words put out by the projector, answers, what is expected "
        "behind boards, answers again.",
        "Lower is better.",
        "training",
    ),
]
