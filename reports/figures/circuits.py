"""Figures of circuits: which heads and MLPs carry a task, what they attend to and write, and how sure that is."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines, scatter
from .drawing import Drawing, Tables, draw_all, first_condition
from .signs import ATTENTION, helps, turned
from .signs import WRITTEN as LOGITS
from .views import unclear

STAGES = (
    "patched at the last position",
    "path to the output",
    "path to the movers' queries",
    "path to the inhibition heads' values",
    "path to the induction heads' keys and values",
)
ESTIMATES = ("1 step", "5 steps")
CHECKS = "checks"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Effects, the circuit's heads one by one, MLPs, estimates and stability."""
    return draw_all(FIGURES, tables)


def heads_of(part: str, *measures: str):
    """The rows of some measures of heads or MLPs, of the first condition."""

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        return first_condition(rows[(rows["part"] == part) & rows["measure"].isin(measures)])

    return select


def label(rows: pd.DataFrame) -> pd.Series:
    """ "12.3": layer and head."""
    return rows["layer"].astype(int).astype(str) + "." + rows["head"].astype(int).astype(str)


def maps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A view per stage, all on one scale."""
    return head_map(unclear(helps(rows)), signed=True, view="measure", unit="logits")


def needed(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The share held by the strongest heads, by how many they are."""
    rows = rows.assign(series="the strongest heads")
    figure = lines(rows, "share", by="series", y_title="share of the summed |effect|", reference=[(0.9, "", "")])
    return figure.update_xaxes(title_text="share of all heads", tickformat=".0%", range=[0, 0.52])


def task(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(scale=rows["unit"].replace({"share": "share of prompts"})), "measure", panel="scale")


def named_heads(rows: pd.DataFrame) -> pd.Series:
    """ "12.3 mover": each head with its name, where it has one."""
    return label(rows) + (" " + rows["name"]).where(rows["name"] != "", "")


def known(rows: pd.DataFrame, measures: pd.Series) -> pd.DataFrame:
    """Some measures of every head of the circuit, each head once, in order."""
    rows = rows[measures].drop_duplicates(["layer", "head", "measure"])
    return rows.assign(label=named_heads(rows)).sort_values(["layer", "head"], kind="stable")


def circuit(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Every head that is in some stage's circuit, with its effects in all stages."""
    return dots(helps(known(rows, rows["measure"].isin(STAGES))), "label", by="measure", zero=True)


def attention(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """What the last position attends to in every head of the circuit."""
    looked = known(rows, rows["measure"].str.startswith(ATTENTION))
    if looked.empty:
        return None
    mark = looked["measure"].str.removeprefix(ATTENTION).str.replace("_", " ")
    return dots(looked.assign(mark="on the " + mark), "label", by="mark", zero=True)


def looked(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(mark="the " + rows["measure"]), "mark", zero=True)


def mlps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    zero = [(0.0, "", "")]
    return lines(helps(rows), "layer", by="measure", y_title="logits towards the answer", reference=zero)


def estimates(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Exact effect against each estimate of it."""
    exact = next((m for m in rows["measure"].unique() if m.startswith("patched")), "")
    wide = turned(rows).pivot_table(index=["layer", "head"], columns="measure", values="value").reset_index()
    guesses = [c for c in wide if c in ESTIMATES]
    if not guesses or exact not in wide:
        return None
    long = wide.melt(["layer", "head", exact], guesses, "estimate", "guess")
    long = long.assign(label=label(long))
    titles = ("exact effect (logits)", "estimate (logits)")
    return scatter(long, exact, "guess", "label", titles=titles, panel="estimate", diagonal=True)


def agreement(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(part=rows["part"].replace({"head": "heads", "mlp": "MLPs"}))
    low = min(0.0, float(rows["value"].min())) - 0.05  # whiskers of a few groups reach far beyond what a share can be
    return dots(rows, "measure", by="estimate", panel="part").update_xaxes(range=[low, 1.1])


def halves(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """The effect of every head in the two halves of the groups."""
    keys = ["measure", "layer", "head"]
    wide = turned(rows).pivot_table(index=keys, columns="half", values="value", sort=False).reset_index()
    wide = wide.rename(columns={1: "first", 2: "second"})
    if not {"first", "second"} <= set(wide):
        return None
    titles = ("effect in one half (logits)", "in the other (logits)")
    return scatter(
        wide.assign(label=label(wide)), "first", "second", "label", titles=titles, panel="measure", diagonal=True
    )


SIGN = "Above 0 (red): it helps the answer; below 0 (blue): it works against it."
AGREEMENT = Drawing(
    "agreement",
    "agreement",
    {},
    "Do the estimates agree with the exact effects?",
    agreement,
    "Rank correlation (Spearman) over all heads or MLPs, and which share of the exact top heads is also in the "
    "estimate's top.",
    "1: the estimate puts them in the same order.",
    CHECKS,
    "Whiskers",
    select=first_condition,
    claims=("gradients",),
)
TASK = Drawing(
    "task",
    "task",
    {},
    "How well the model does the task",
    task,
    "Accuracy: the answer has a higher logit than every wrong option. Clean − corrupt: by how much the answer's lead "
    "differs between a prompt and its twin.",
    "An accuracy whose interval holds the grey tick (guessing) shows no circuit: nothing on this page explains a "
    "task that is not solved.",
    CHECKS,
    "Whiskers",
    "Grey ticks",
    select=first_condition,
    claims=("solved", "twins differ"),
)

FIGURES = [
    Drawing(
        "effects",
        "effects",
        {"part": "head"},
        "How much each head helps the answer",
        maps,
        "Fall of the answer's lead (logit of the answer − logit of the wrong one) when one head's output at the last "
        "position is that of the twin prompt; the buttons: its whole output, then only its path to the output, and to "
        "the queries of the movers (the heads with the strongest path to the output), all other heads held; where "
        "asked for (--circuits.further) also to the values of the inhibition heads (those that the movers' queries "
        "hear) and to the keys and values of the induction heads (those that these values hear).",
        SIGN,
        select=heads_of("head", *STAGES),
        grey="Grey: chance alone shows as much among all heads of the map (p > 0.05).",
        claims=("sparse",),
    ),
    Drawing(
        "needed",
        "needed",
        {},
        "How few heads hold most of the effect?",
        needed,
        "Share of the summed |effect| at the last position that the strongest heads hold, by how many they are of all "
        "heads. Heads and the sign of each come from one half of the groups, effects from the other.",
        "Where the line crosses 0.9, so many heads hold nine tenths of the effect. Far above the dotted line: they "
        "hold more than others of their layers. Above 1: the rest works the other way.",
        "how few",
        "Bands",
        "Dotted",
        select=first_condition,
        claims=("nine tenths",),
    ),
    Drawing(
        "circuit",
        "circuit",
        {},
        "The heads of the circuit, one by one",
        circuit,
        "Every head that is among the strongest of some stage on one half of the groups, with what it adds to the "
        "answer's lead in each stage on the other half.",
        "Above 0 it helps. Names follow from thresholds on attention and direct logit attribution (the options): a "
        "mover attends to the answer and writes towards it, a negative mover against it, inhibition attends to the "
        "wrong option; “not testable” attends to the answer, but what it writes is not known.",
        interval="Whiskers",
        select=first_condition,
        claims=("movers",),
    ),
    Drawing(
        "attention",
        "circuit",
        {},
        "What the heads of the circuit attend to",
        attention,
        "Attention of the last position on the named tokens of the prompt, mean over prompts of the groups that the "
        "heads were not chosen on.",
        "A head far to the right looks at that token and at little else.",
        interval="Whiskers",
        select=first_condition,
    ),
    Drawing(
        "looked",
        "looked",
        {},
        "What the strongest heads look at, beside others",
        looked,
        "Attention of the last position on the named tokens, mean over the heads of largest effect at the last "
        "position (of one half of the groups; the attention is the other half's).",
        "Right of both ticks: these heads look at that token more than other heads of their layers do, and more than "
        "a head that looks at all tokens alike.",
        theme="attention",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
    ),
    Drawing(
        "writing",
        "effects",
        {"part": "head", "measure": LOGITS},
        "What each head writes towards the answer",
        maps,
        "Direct logit attribution: what a head's output at the last position adds to the answer's lead through the "
        "final norm and the unembedding, the norm's scale held.",
        SIGN,
        select=heads_of("head", LOGITS),
        grey="Grey: the interval holds 0.",
    ),
    Drawing(
        "mlps",
        "effects",
        {"part": "mlp"},
        "MLPs by layer",
        mlps,
        "What an MLP adds to the answer's lead: the fall when its output at the last position is the twin's, and what "
        "it writes by itself (direct logit attribution).",
        "Above 0 it helps.",
        "by layer",
        "Bands",
        select=heads_of("mlp", STAGES[0], LOGITS),
    ),
    TASK,
    Drawing(
        "estimates",
        "effects",
        {"part": "head"},
        "Would a gradient have found the same heads?",
        estimates,
        "Every head: its exact effect at the last position against the estimate from one gradient (attribution "
        "patching) and from five on the way to the twin's embeddings (integrated gradients).",
        "Above 0 it helps. On the dashed line the estimate is exact.",
        CHECKS,
        select=heads_of("head", STAGES[0], *ESTIMATES),
    ),
    AGREEMENT,
    Drawing(
        "halves",
        "stability",
        {},
        "The same heads in both halves of the prompts?",
        halves,
        "Mean effect of every head on two halves of the groups, above 0 where it helps.",
        "On the dashed line both halves agree. The table has the reliability of the whole map (correlation of halves, "
        "Spearman–Brown).",
        CHECKS,
        select=first_condition,
    ),
]
