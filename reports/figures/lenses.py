"""Figures of the lenses: at which state the answer can be read, and from what."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from ..charts import captioned, dots, heat_map, lines, token_grid
from ..charts.style import token_label
from .drawing import Drawing, Tables, draw_all

Draw = Callable[[pd.DataFrame, Tables], go.Figure | None]
SITES = {"resid": "residual", "attn_out": "attention output", "mlp_out": "MLP output"}
ACCURACY = {"top1": "top-1 accuracy"}
GRIDS = 4  # prompts shown as token grids
FEW = 6  # lines that can still be told apart
LEAST = 1e-4  # nats; below lies the output itself


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Every measure by state, the answer by group, the accuracy, the token grids of the first prompts."""
    return draw_all(FIGURES, tables) | _grids(tables.get("grid", pd.DataFrame())) | _trajectories(tables)


def by_state(y_title: str, log_y: bool = False) -> Draw:
    """One panel per site, one line with and one without the final norm."""

    def draw(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
        rows = rows[_group(rows) == "all"]
        if rows.empty:
            return None
        rows = rows.assign(site=rows["site"].replace(SITES), line=_with_condition(rows, rows["norm"]))
        return lines(rows, "state", by="line", panel="site", log_y=log_y, y_title=y_title)

    return draw


def ranks(rows: pd.DataFrame, tables: Tables) -> go.Figure | None:
    """Ranks on a logarithmic axis, the first at the top; counted from 1, whatever the table does."""
    if rows["value"].min() < 1 or rows["unit"].astype(str).str.contains("0 =").any():
        rows = rows.assign(**{name: rows[name] + 1 for name in ("value", "lower", "upper")})
    figure = by_state("median rank, 1 = first", True)(rows.assign(unit="rank (1 = first)"), tables)
    return None if figure is None else figure.update_yaxes(autorange="reversed")


def probability(rows: pd.DataFrame, tables: Tables) -> go.Figure | None:
    """Down to one in a million: what lies below has no place."""
    figure = by_state("probability", True)(rows, tables)
    return None if figure is None else figure.update_yaxes(range=[-6.1, 0.1], dtick=1)


def distance(rows: pd.DataFrame, tables: Tables) -> go.Figure | None:
    """Without the output itself, which is at no distance."""
    return by_state("KL to the output (nats)", True)(rows[rows["value"] > LEAST], tables)


def by_group(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Lines while they can be told apart."""
    return lines(rows, "state", by="line", y_title="probability") if 2 <= rows["line"].nunique() <= FEW else None


def map_of_groups(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """A map where there are more."""
    if rows["line"].nunique() <= FEW:
        return None
    return heat_map(rows, "state", "line", unit="probability").update_yaxes(title_text="")


def groups_only(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of single groups of prompts, each with the name of its line."""
    rows = rows.assign(group=_group(rows))
    rows = rows[rows["group"] != "all"]
    return rows.assign(line=_with_condition(rows, rows["group"]))


def accuracy(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """All prompts first, then the groups from best to worst by the first measure."""
    rows = rows.assign(group=_group(rows), control=rows["control"].fillna("") if "control" in rows else "")
    first = rows[(rows["measure"] == rows["measure"].iloc[0]) & (rows["control"] == "")]
    order = first.sort_values("value", ascending=False, kind="stable")["group"].tolist()
    place = {group: index for index, group in enumerate(order)} | {"all": -1}
    rows = rows.sort_values("group", key=lambda c: c.map(place), kind="stable")
    rows = rows[~rows["measure"].str.contains("−")].assign(measure=lambda r: r["measure"].replace(ACCURACY))
    by = "condition" if "condition" in rows and rows["condition"].nunique() > 1 else None
    return dots(rows, "group", by=by, panel="measure")


def _group(rows: pd.DataFrame) -> pd.Series:
    """The group of prompts of each row ("all", a relation, a template)."""
    return rows["subset"] if "subset" in rows else rows["condition"]


def _with_condition(rows: pd.DataFrame, name: pd.Series) -> pd.Series:
    """The name of a series, with its condition where there are several ("BOS", "no BOS")."""
    several = "subset" in rows and rows["condition"].nunique() > 1
    return name + " · " + rows["condition"] if several else name


def _grids(table: pd.DataFrame) -> dict[str, go.Figure]:
    drawn = {}
    for index, example in enumerate(table["example"].unique()[:GRIDS] if not table.empty else []):
        rows = table[table["example"] == example]
        parts = {"seen": GRID.format(lens=_lens_of(rows)), "read": READ, "sample": ONE}
        said = {"theme": "main" if index == 0 else "more prompts", **parts}
        title = f"What the lens reads, word by word: prompt {index + 1}"
        caption = " ".join(parts.values())
        drawn[f"grid-{index}"] = captioned(token_grid(rows), title, caption, "grid", {"example": example}, **said)
    return drawn


def _lens_of(rows: pd.DataFrame) -> str:
    return str(rows["lens"].iloc[0]) if "lens" in rows else "logit lens"


def _trajectories(tables: Tables) -> dict[str, go.Figure]:
    """How the predictions of the first prompt move from state to state, measure by measure."""
    table, drawn = tables.get("trajectories", pd.DataFrame()), {}
    for measure, (name, title, seen, read) in MOVES.items() if not table.empty else ():
        rows = table[(table["measure"] == measure) & (table["example"] == table["example"].iloc[0])]
        rows = rows.dropna(subset=["value"])
        parts = {"seen": f"{seen} Read by the {_lens_of(rows)}.", "read": read, "sample": ONE}
        where = {"measure": measure, "example": rows["example"].iloc[0]} if len(rows) else {}
        if len(rows):
            words = [f"{position} {token_label(token)}" for position, token in rows[["position", "token"]].to_numpy()]
            figure = heat_map(rows.assign(word=words), "state", "word", unit=str(rows["unit"].iloc[0]))
            figure.update_yaxes(title_text="word read at the position")
            drawn[name] = captioned(
                figure, title, " ".join(parts.values()), "trajectories", where, theme="trajectories", **parts
            )
    return drawn


ONE = "n\u00a0=\u00a01: an illustration."
MOVES = {
    "KL to the output": (
        "move-kl",
        "How far each state's prediction is from the output",
        "The Kullback–Leibler divergence of the model's own output to the lens, at every position of one prompt.",
        "Where a row turns dark early, the model has made up its mind early.",
    ),
    "entropy": (
        "move-entropy",
        "How sure each state is",
        "The entropy of the lens at every position of one prompt.",
        "Dark: the lens puts nearly everything on one word, be it right or wrong.",
    ),
    "surprise at the next token": (
        "move-surprise",
        "How surprised each state is at the word that follows",
        "Minus the log-probability that the lens gives to the prompt's own next word, at every position but the last.",
        "Dark: the state foresees the word that comes.",
    ),
}
GRID = "The most likely next token that the {lens} reads at every state above every position of one prompt."
READ = "From below upwards the model makes up its mind. ␣ is a leading space, ↵ a new line."
PLACE = (
    "Read at the last position from the residual and from what attention and MLP add to it, through the "
    "final norm or without it."
)


def _lens(measure: str, title: str, seen: str, read: str, draw: Draw, theme: str, *claims: str) -> Drawing:
    return Drawing(
        *(measure, "lens", {"measure": measure, "subset": "all"}, title, draw, f"{seen} {PLACE}", read, theme),
        interval="Bands",
        control="Dotted in the same colour",
        claims=claims,
    )


FIGURES = [
    _lens(
        "rank",
        "Rank of the answer among all words, state by state",
        "The median rank of the answer in the whole vocabulary, counted from 1; logarithmic.",
        "At the top the lens names the answer.",
        ranks,
        "main",
    ),
    _lens(
        "top1",
        "How often the lens names the answer",
        "The share of prompts whose answer is the most likely token of the lens.",
        "1: on every prompt.",
        by_state("share of prompts"),
        "main",
    ),
    *(
        Drawing(
            name,
            "lens",
            {"measure": "probability", "site": "resid", "norm": "final norm", "control": ""},
            "Probability of the answer by kind of prompt",
            draw,
            "Mean probability of the answer by relation or template, read from the residual at the last position "
            "through the final norm.",
            read,
            interval=interval,
            select=groups_only,
        )
        for name, draw, interval, read in (
            ("groups", by_group, "Bands", "A line that rises earlier: a kind of prompt that is answered earlier."),
            ("groups-map", map_of_groups, "", "A row that brightens earlier: a kind that is answered earlier."),
        )
    ),
    _lens(
        "probability",
        "Probability of the answer, state by state",
        "The probability that the lens gives to the answer, mean over prompts; logarithmic, down to one in a million.",
        "Where a line leaves its dotted control (the wrong answer), the lens tells the two apart.",
        probability,
        "other measures",
        "readable late",
    ),
    _lens(
        "kl",
        "Distance from the output, state by state",
        "The Kullback–Leibler divergence of the model's own output to the lens, mean over prompts; logarithmic.",
        "Lower is nearer; the output itself has no place on this axis.",
        distance,
        "other measures",
        "norm matters",
        "refined step by step",
    ),
    _lens(
        "entropy",
        "Entropy of the lens, state by state",
        "The entropy of the lens distribution, mean over prompts.",
        "Low: the lens is sure, of whatever word.",
        by_state("entropy (nats)"),
        "other measures",
    ),
    Drawing(
        "accuracy",
        "accuracy",
        {},
        "How well the model itself does the task",
        accuracy,
        "What the model answers, without a lens: how often the answer is its most likely token, how often "
        "it prefers the answer to the wrong one, by how many logits.",
        "What the model does not know, no lens can find.",
        "checks",
        "Whiskers",
        "Grey ticks",
    ),
]
