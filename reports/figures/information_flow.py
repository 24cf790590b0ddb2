"""Figures of the information flow: what each cut costs, layer by layer, beside its controls."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, heat_map, lines
from .drawing import Drawing, Tables, draw_all

Draw = Callable[[pd.DataFrame, Tables], go.Figure | None]
WINDOW = (
    "Attention from the target's rows to the source's columns is cut in a window of layers around each layer; "
    "windows are shorter at both ends (column width)."
)
CUT = "cut"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """All flows, each flow with its controls, by kind of question, what is left, the answer by state, the tracing."""
    flows = tables.get("flows", pd.DataFrame())
    names = list(flows["flow"].unique()) if len(flows) else []
    return draw_all([*_overview(), *(one_flow(i, name) for i, name in enumerate(names)), *_rest()], tables)


def by_flow(y_title: str) -> Draw:
    """A line per flow, a panel per condition."""

    def draw(rows: pd.DataFrame, _: Tables) -> go.Figure:
        return lines(rows, "layer", by="flow", panel="condition", y_title=y_title, reference=[(0.0, "", "")])

    return draw


def by_subset(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """A panel per kind of question."""
    rows = rows[rows["subset"] != "all"]
    if rows["subset"].nunique() < 2:
        return None
    return lines(rows.assign(kind=_named(rows, "subset")), "layer", by="flow", panel="kind", y_title="change (%)")


def with_controls(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The cut and each control, every one a series of its own in the legend."""
    control = rows["control"].fillna("")
    rows = rows.assign(line=("control: " + control).where(control != "", CUT)).drop(columns="control")
    return lines(rows, "layer", by="line", panel="condition", y_title="change (%)", reference=[(0.0, "", "")])


def left_over(y_title: str) -> Draw:
    """What a cut leaves, one line per flow; guessing as a dashed line."""

    def draw(rows: pd.DataFrame, _: Tables) -> go.Figure:
        guess = rows["guessing"].dropna()
        marks = [(float(guess.iloc[0]), "guessing", "")] if len(guess) else []
        figure = lines(rows, "layer", by="flow", panel="condition", y_title=y_title, reference=marks)
        return figure.update_yaxes(range=[0, 1.02])

    return draw


def answer(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "state", by="norm", panel="condition", y_title="probability")


def stages(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """The three thirds of the layers, flow by flow."""
    rows = rows[rows["stage"].str.endswith("third") & ~rows["stage"].str.contains("−")]
    return None if rows.empty else bars(rows, "flow", by="stage", panel="condition")


def tracing(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Place × state: where restoring the clean state brings the answer back."""
    return heat_map(rows, "state", "place", panel="condition", signed=True, unit=str(rows["unit"].iloc[0]))


def traces(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "state", by="place", panel="condition", y_title="probability restored")


def _named(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows[column] + " · " + rows["condition"] if rows["condition"].nunique() > 1 else rows[column]


def _overview() -> list[Drawing]:
    where = {"measure": "change", "subset": "all", "control": ""}
    return [
        Drawing(
            *("flows", "flows", where, "What each cut costs"),
            "Change in the probability of the model's own first answer token, mean over correct answers of each one's "
            f"change. {WINDOW}",
            by_flow("change (%)"),
            interval="Bands",
        )
    ]


def one_flow(index: int, name: str) -> Drawing:
    """One flow beside its controls."""
    return Drawing(
        *(f"flow-{index}", "flows", {"measure": "change", "subset": "all", "flow": name}, name),
        f"The cut and its controls. {WINDOW} Resampled: the edges stay and read the twin's keys and values. Random: "
        "as many other positions for the same targets, mean over draws.",
        with_controls,
        interval="Bands",
    )


def _rest() -> list[Drawing]:
    where = {"subset": "all", "control": ""}
    return [
        Drawing(
            *("log-p", "flows", {**where, "measure": "delta log p"}, "The same in nats"),
            "Change in the log probability of the own answer, which does not saturate at −100 %.",
            by_flow("Δ log p (nats)"),
            interval="Bands",
        ),
        Drawing(
            *("sums", "flows", {**where, "measure": "change of the sum"}, "The same, sums first"),
            "Sum of the changes over examples as a share of the sum of their probabilities: examples that the model is "
            "sure of weigh more than in the mean of each one's change above.",
            by_flow("change of the sum (%)"),
            interval="Bands",
        ),
        Drawing(
            *("kinds", "flows", {"measure": "change", "control": ""}, "By kind of question"),
            f"Change in the probability of the own answer, kind by kind. {WINDOW}",
            by_subset,
            interval="Bands",
            select=lambda rows: rows[rows["subset"] != "all"],
        ),
        Drawing(
            *("mass", "valid", {**where, "measure": "valid mass"}, "Does the model still answer?"),
            "Probability that is left on the task's options together: where it falls, the cut damages the model "
            "rather than taking information away.",
            left_over("probability"),
            interval="Bands",
        ),
        Drawing(
            *("valid", "valid", {**where, "measure": "valid accuracy"}, "Accuracy among the options"),
            "How often the right answer is the likeliest of the options; examples answered correctly without the cut.",
            left_over("share"),
            interval="Bands",
        ),
        Drawing(
            *("stages", "stages", {"control": ""}, "By third of the layers"),
            "Mean change over the windows of each third; the paired differences behind the claims are in the table.",
            stages,
            interval="Whiskers",
            select=lambda rows: rows[rows["stage"].isin(["early third", "middle third", "late third"])],
        ),
        Drawing(
            *("answer", "answer", {}, "The answer by state"),
            "Probability of the own answer that the unembedding reads from the residual at the last position, with the "
            "final norm and without it (the paper leaves it out in middle layers; the last state is the model's own "
            "output).",
            answer,
            interval="Bands",
        ),
        Drawing(
            *("tracing", "trace", {"measure": "normalised"}, "Causal tracing"),
            "One state of the clean run put at one place of the twin's run: the share of the lost probability that "
            "comes back.",
            tracing,
        ),
        Drawing(
            *("tracing-raw", "trace", {"measure": "restored"}, "Causal tracing, in probability"),
            "The same, not normalised, with intervals.",
            traces,
            interval="Bands",
        ),
    ]
