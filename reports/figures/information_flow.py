"""Figures of the information flow: what each cut costs, layer by layer, beside its controls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, heat_map, lines
from .drawing import Drawing, Tables, draw_all
from .signs import turned

Draw = Callable[[pd.DataFrame, Tables], go.Figure | None]
WINDOW = (
    "Attention from the target's rows to the source's columns is cut in a window of layers around each layer (column "
    "width of the table; shorter at both ends)."
)
CUT, SWAP, RESAMPLED = "cut", "swap: the twin's keys and values instead", "resampled"
ZERO = [(0.0, "", "")]
LOST = "answer's probability lost (%)"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """All flows, by kind of question where there are several, flows beside their controls, the answer by state."""
    flows = tables.get("flows", pd.DataFrame({"subset": []}))
    several = flows["subset"].nunique() > 2  # kinds, and all of them together: whose mean can hide opposite ones
    if not several:
        return draw_all([FLOWS, KINDS, *REST], tables)
    rest = [item._replace(theme="more") if item.name == "answer" else item for item in REST]
    return draw_all([KINDS, FLOWS, *rest], tables)


def by_flow(y_title: str) -> Draw:
    """A line per flow, a panel per condition."""

    def draw(rows: pd.DataFrame, _: Tables) -> go.Figure:
        named = turned(rows).assign(flow=_counted(rows))
        return lines(named, "layer", by="flow", panel="condition", y_title=y_title, reference=ZERO)

    return draw


def _counted(rows: pd.DataFrame) -> pd.Series:
    """The flows' names, with their n where they were measured on other examples."""
    most = rows.groupby("flow")["n"].max()
    if most.nunique() == 1:
        return rows["flow"]
    return rows["flow"].map({flow: f"{flow} (n = {int(n)})" for flow, n in most.items()})


def by_subset(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """A panel per kind of question."""
    rows = rows[rows["subset"] != "all"]
    if rows["subset"].nunique() < 2:
        return None
    kinds = turned(rows).assign(kind=_named(rows, "subset"))
    return lines(kinds, "layer", by="flow", panel="kind", y_title=LOST, reference=ZERO)


def _of_kinds(rows: pd.DataFrame, *, whole: bool) -> pd.DataFrame:
    """The flows that were measured on all examples of their kind, or (not whole) on some of them."""
    rows = _of_others(rows[rows["subset"] != "all"])
    own = rows.groupby(["subset", "condition", "flow"])["n"].transform("max")
    every = rows.groupby(["subset", "condition"])["n"].transform("max")
    return rows[(own == every) == whole]


def by_part(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The same with the number of examples in the flow's name."""
    kinds = turned(rows).assign(kind=_named(rows, "subset"), flow=rows["flow"] + " (n = " + rows["n"].astype(str) + ")")
    return lines(kinds, "layer", by="flow", panel="kind", y_title=LOST, reference=ZERO)


def with_controls(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel per flow: the cut, the swap, and what random positions do."""
    control = rows["control"].fillna("")
    swapped = control == RESAMPLED
    line = pd.Series(CUT, rows.index).where(~swapped, SWAP)
    rows = turned(rows).assign(line=line, control=control.where(~swapped, ""), panel=_named(rows, "flow"))
    return lines(rows, "layer", by="line", panel="panel", y_title=LOST, reference=ZERO, markers=False)


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


def thirds(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["stage"].isin(["early third", "middle third", "late third"])]


def stages(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """The three thirds of the layers, flow by flow."""
    return dots(turned(rows), "flow", by="stage", panel="condition", zero=True, x_title=LOST)


def tracing(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Place × state: where restoring the clean state brings the answer back."""
    unit = str(rows["unit"].iloc[0])
    figure = heat_map(rows, "state", "place", panel="condition", signed=True, unit=unit)
    return figure.update_yaxes(title_text="")


def traces(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "state", by="place", panel="condition", y_title="probability restored", reference=ZERO)


def _named(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows[column] + " · " + rows["condition"] if rows["condition"].nunique() > 1 else rows[column]


def _of_options(rows: pd.DataFrame) -> pd.DataFrame:
    """The flows out of a question's options and of what is left of it: of questions that end with them."""
    return rows[rows["flow"].str.contains("option")]


def _of_others(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["flow"].str.contains("option")]


CHANGE = {"measure": "change", "subset": "all", "control": ""}
FLOWS = Drawing(
    "flows",
    "flows",
    CHANGE,
    "How much of the answer's probability each cut takes away",
    by_flow(LOST),
    f"Share of the probability of the model's own first answer token that is lost, mean over correct answers. {WINDOW}",
    "Above 0 the answer needs this flow at this depth; 100 % is all of it. An n in the legend: these flows "
    "were measured on different examples.",
    interval="Bands",
    select=_of_others,
    claims=("image to question early", "question to last in the middle", "question before image"),
)
KINDS = Drawing(
    "kinds",
    "flows",
    {"measure": "change", "control": ""},
    "How much each cut takes away, kind by kind of question",
    by_subset,
    f"Share of the probability of the model's own answer that is lost, a panel for each kind of question, whose flows "
    f"are all measured on the same examples. {WINDOW}",
    "Above 0 the answer needs this flow at this depth.",
    interval="Bands",
    select=partial(_of_kinds, whole=True),
)
REST = [
    Drawing(
        "kinds-part",
        "flows",
        {"measure": "change", "control": ""},
        "Flows that only some questions of a kind have",
        by_part,
        "Share of the probability of the model's own answer that is lost, of the flows that not every question of its "
        "kind has: where nothing is there that is asked for, no patch is the asked object's.",
        "The n in the legend: on so many examples. These lines are not on the same examples as those of the kind.",
        "parts of a kind",
        "Bands",
        select=partial(_of_kinds, whole=False),
    ),
    Drawing(
        "controls",
        "flows",
        {"measure": "change", "subset": "all"},
        "Each cut beside its control",
        with_controls,
        "The cut; the swap, in which the edges stay and read the twin's keys and values; and, dotted, as many other "
        "positions cut for the same targets, mean over draws.",
        "A cut above its dotted line takes more than any positions would. A panel without a dotted line has no such "
        "control: there are not as many other positions.",
        interval="Bands",
        select=_of_others,
        claims=("asked object is read", "subject is read"),
    ),
    Drawing(
        "options",
        "flows",
        {"measure": "change", "subset": "all"},
        "What the answer reads where a question ends with its options",
        with_controls,
        "The question's true option, its false one, and the question without them, each cut from the last position; "
        "the swap, in which the edges stay and read the twin's keys and values; and, dotted, as many other positions "
        "cut for the same target.",
        "Where cutting an option takes more than the dotted line, the answer is read off it.",
        theme="options",
        interval="Bands",
        select=_of_options,
    ),
    Drawing(
        "tracing",
        "trace",
        {"measure": "normalised"},
        "Causal tracing: where the answer comes back",
        tracing,
        "One state of the clean run put at one place of the twin's run: the share of the lost probability that comes "
        "back.",
        "Red: this place holds what the answer needs at that depth.",
        claims=("tracing, first half", "tracing, second half"),
    ),
    Drawing(
        "answer",
        "answer",
        {},
        "When the answer can be read at the last position",
        answer,
        "Probability of the own answer that the unembedding reads from the residual, with the final norm and without "
        "it (the paper leaves it out in middle layers).",
        "Where the line rises, the answer is written. The last state is the model's own output.",
        interval="Bands",
    ),
    Drawing(
        "stages",
        "stages",
        {"control": ""},
        "By third of the layers",
        stages,
        "Mean loss over the windows of each third.",
        "Right of 0 the answer needs the flow there. The paired differences behind the claims are in the table.",
        "variants",
        "Whiskers",
        select=thirds,
    ),
    Drawing(
        "log-p",
        "flows",
        {"subset": "all", "control": "", "measure": "delta log p"},
        "The cuts in nats",
        by_flow("log p lost (nats)"),
        "Loss of the log probability of the own answer.",
        "Unlike the share it does not saturate at 100 %.",
        "variants",
        "Bands",
    ),
    Drawing(
        "sums",
        "flows",
        {"subset": "all", "control": "", "measure": "change of the sum"},
        "The cuts, sums first",
        by_flow("summed probability lost (%)"),
        "Sum of the losses over examples as a share of the sum of their probabilities.",
        "Examples that the model is sure of weigh more than in the mean of each one's loss.",
        "variants",
        "Bands",
    ),
    Drawing(
        "tracing-raw",
        "trace",
        {"measure": "restored"},
        "Causal tracing, in probability",
        traces,
        "One state of the clean run put at one place of the twin's run: the probability that comes back, not "
        "normalised.",
        "Above 0 the state brings the answer back.",
        "variants",
        "Bands",
    ),
    Drawing(
        "mass",
        "valid",
        {"subset": "all", "control": "", "measure": "valid mass"},
        "Does the model still answer?",
        left_over("probability"),
        "Probability that is left on the task's options together.",
        "Where it falls, the cut damages the model rather than taking information away.",
        "checks",
        "Bands",
    ),
    Drawing(
        "valid",
        "valid",
        {"subset": "all", "control": "", "measure": "valid accuracy"},
        "Accuracy among the options",
        left_over("share"),
        "How often the right answer is the likeliest of the options; examples answered correctly without the cut.",
        "1: the cut changed no answer.",
        "checks",
        "Bands",
    ),
]
