"""Figures of circuits: which heads and MLPs carry a task, what they attend to and write, and how sure that is."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, head_map, lines, scatter
from .drawing import Drawing, Tables, draw_all

STAGES = ("patched at the last position", "path to the output", "path to the movers' queries")
LOGITS = "direct logit attribution"
ATTENTION = "attention on "
ESTIMATES = ("1 step", "5 steps")


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Effects, the circuit's heads one by one, MLPs, estimates and stability."""
    return draw_all(FIGURES, tables)


def heads_of(part: str, *measures: str):
    """The rows of some measures of heads or MLPs, of the first condition."""

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows[(rows["part"] == part) & rows["measure"].isin(measures)]
        return rows[rows["condition"] == rows["condition"].iloc[0]] if len(rows) else rows

    return select


def label(rows: pd.DataFrame) -> pd.Series:
    """ "12.3": layer and head."""
    return rows["layer"].astype(int).astype(str) + "." + rows["head"].astype(int).astype(str)


def maps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, signed=True, panel="measure", unit="logits")


def task(rows: pd.DataFrame, _: Tables) -> go.Figure:
    bar = rows["control"].where(rows["control"] != "", "measured")
    rows = rows.assign(bar=bar, unit_panel=rows["unit"].replace({"share": "share of prompts"}))
    return bars(rows, "measure", by="bar", panel="unit_panel")


def named_heads(rows: pd.DataFrame) -> pd.Series:
    """ "12.3 mover": each head with its name, where it has one."""
    return label(rows) + (" " + rows["name"]).where(rows["name"] != "", "")


def known(rows: pd.DataFrame, measures: pd.Series) -> pd.DataFrame:
    """Some measures of every head of the circuit, each head once, in order."""
    rows = rows[measures].drop_duplicates(["layer", "head", "measure"])
    return rows.assign(label=named_heads(rows)).sort_values(["layer", "head"], kind="stable")


def circuit(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Every head that is in some stage's circuit, with its effects in all stages."""
    return bars(known(rows, rows["measure"].isin(STAGES)), "label", by="measure")


def attention(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """What the last position attends to in every head of the circuit."""
    looked = known(rows, rows["measure"].str.startswith(ATTENTION))
    if looked.empty:
        return None
    mark = looked["measure"].str.removeprefix(ATTENTION).str.replace("_", " ")
    return bars(looked.assign(mark=mark), "label", by="mark")


def mlps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "layer", by="measure", y_title="logits")


def first_condition(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["condition"] == rows["condition"].iloc[0]] if len(rows) else rows


def estimates(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Exact effect against each estimate of it."""
    exact = next(m for m in rows["measure"].unique() if m.startswith("patched"))
    wide = rows.pivot_table(index=["layer", "head"], columns="measure", values="value").reset_index()
    guesses = [c for c in wide if c in ESTIMATES]
    if not guesses:
        return None
    long = wide.melt(["layer", "head", exact], guesses, "estimate", "guess")
    long = long.assign(label=label(long))
    titles = ("exact effect (logits)", "estimate (logits)")
    return scatter(long, exact, "guess", "label", titles=titles, panel="estimate", diagonal=True)


def agreement(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(part=rows["part"].replace({"head": "heads", "mlp": "MLPs"}))
    return bars(rows, "measure", by="estimate", panel="part")


def halves(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The effect of every head in the two halves of the groups."""
    keys = ["measure", "layer", "head"]
    wide = rows.pivot_table(index=keys, columns="half", values="value", sort=False).reset_index()
    wide = wide.rename(columns={1: "first", 2: "second"}).assign(label=label(wide))
    titles = ("effect in one half (logits)", "in the other (logits)")
    return scatter(wide, "first", "second", "label", titles=titles, panel="measure", diagonal=True)


EFFECT = (
    "Patched minus clean logit difference, mean over prompts, one cell per head: blue (negative) heads carry the "
    "answer, red ones work against it. In logits, not divided by anything; the table also has the effect as a share "
    "of clean − corrupt where that difference is not 0 (normalized) and p, corrected for all heads of a map."
)
AGREEMENT = Drawing(
    "agreement",
    "agreement",
    {},
    "Agreement of the estimates with the exact effects",
    "Spearman correlation over all heads (MLPs), and which share of the exact top heads is also in the estimate's.",
    agreement,
    "Whiskers",
    select=first_condition,
)
TASK = Drawing(
    "task",
    "task",
    {},
    "How well the model does the task",
    "Accuracy: the answer has a higher logit than every wrong option; guessing is its base rate. Clean − corrupt "
    "is what effects are shares of; where its interval contains 0, nothing is divided by it.",
    task,
    "Whiskers",
    "Hatched",
    select=first_condition,
)

FIGURES = [
    Drawing(
        "effects",
        "effects",
        {"part": "head"},
        "Which heads carry the task",
        f"{EFFECT} First the head's output at the last position alone; then only its path to the output and to the "
        "movers' queries, all other heads frozen.",
        maps,
        select=heads_of("head", *STAGES),
    ),
    TASK,
    Drawing(
        "circuit",
        "circuit",
        {},
        "The heads of the circuit",
        "Every head that is among the top share of some stage on one half of the groups, with its effect in each stage "
        "on the other half. The name (mover, negative mover, inhibition) follows from thresholds on attention and "
        "direct logit attribution, see the options; “not testable” attends to the answer, but what it writes is not "
        "known.",
        circuit,
        "Whiskers",
        select=first_condition,
    ),
    Drawing(
        "attention",
        "circuit",
        {},
        "What the heads of the circuit attend to",
        "Attention of the last position on the named tokens of the prompt, mean over prompts of the groups that the "
        "heads were not chosen on.",
        attention,
        "Whiskers",
        select=first_condition,
    ),
    Drawing(
        "writing",
        "effects",
        {"part": "head", "measure": LOGITS},
        "What the heads write",
        "Direct logit attribution: what a head's output at the last position adds to the logit difference through the "
        "final norm and the unembedding, the norm's scale held. Positive: towards the answer.",
        maps,
        select=heads_of("head", LOGITS),
    ),
    Drawing(
        "mlps",
        "effects",
        {"part": "mlp"},
        "MLPs by layer",
        "The same effect of replacing an MLP's output at the last position, and its direct logit attribution.",
        mlps,
        "Bands",
        select=heads_of("mlp", STAGES[0], LOGITS),
    ),
    Drawing(
        "estimates",
        "effects",
        {"part": "head"},
        "Would a gradient have found them?",
        "Every head: its exact effect at the last position against the estimate from one gradient (attribution "
        "patching) and from five on the way to the twin's embeddings (integrated gradients). Dashed: equal.",
        estimates,
        select=heads_of("head", STAGES[0], *ESTIMATES),
    ),
    AGREEMENT,
    Drawing(
        "halves",
        "stability",
        {},
        "The same heads in both halves?",
        "Mean effect of every head on two halves of the groups. The table has the reliability of the whole map "
        "(correlation of halves, Spearman–Brown).",
        halves,
        select=first_condition,
    ),
]
