"""What `sinks` states of a model: one number a statement, each from the examples' own rows, and its verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import controls
from ..common.claims import Claim, Statement, judge, one_row, unsolved
from ..common.controls import SHUFFLED, UNIFORM, uniform_on_first
from ..common.frames import mean_of_present, middle, of_heads, summarise
from . import _visual_sinks

MASSIVE, FIRST, AGREE = "massive dimensions", "first token", "criteria agree"
HIDDEN, VISUAL, MASKING = "hidden sinks", "visual sinks", "masking visual sinks"
SEPARATION = "first token above τ − other tokens above τ"
STATEMENTS = (
    Statement(
        MASSIVE,
        "A few fixed dimensions of the residual, found on other examples, carry massive activations (above 100 and "
        "1,000 times the median, unless set otherwise) in more than half of the examples.",
        *("arXiv 2402.17762, used by 2503.03321", 0.5, "above"),
    ),
    Statement(
        FIRST,
        "In the middle half of the layers the first token takes more than 30 % of a head's attention on average.",
        *("arXiv 2309.17453, 2406.15765", 0.3, "above"),
    ),
    Statement(
        AGREE,
        "The tokens with φ ≥ τ are those that receive attention: Jaccard above 0.5 in the middle half of the layers.",
        *("arXiv 2503.03321", 0.5, "above"),
    ),
    Statement(
        HIDDEN,
        "Other tokens than the first are sinks too: in layers 2 … L−2 more than 5 % of a prompt's heads have one.",
        *("arXiv 2406.15765", 0.05, "above"),
    ),
    Statement(
        VISUAL,
        "Some image tokens are sinks: more than 1 % of them have φ ≥ τ in the middle half of the layers.",
        *("arXiv 2503.03321", 0.01, "above"),
    ),
    Statement(
        MASKING,
        "Visual sinks can be masked at little cost: at the learned τ, accuracy falls less than with as many random "
        "image tokens masked.",
        *("arXiv 2503.03321", 0.0, "above"),
    ),
)


def criteria(rows: Rows, how: How) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens are sinks by φ ≥ τ and by attention received > receives/N, Bool [n, layers, p]."""
    tau = np.inf if how.learned.tau is None else how.learned.tau
    limit = (how.options.receives / rows["length"])[:, None, None]
    return np.nan_to_num(rows["phi"]) >= tau, np.nan_to_num(rows["column_mean"]) > limit


def shuffled(rows: Rows, chosen: np.ndarray) -> np.ndarray:
    """The control of chosen tokens [n, layers, p], within those that are asked about."""
    return controls.shuffled(chosen, asked_about(rows), rows.examples["id"].tolist())


def asked_about(rows: Rows) -> np.ndarray:
    """The tokens that are asked about, Bool [n, p]."""
    return np.asarray(np.isfinite(rows["column_mean"]).any(1))


def agreement(rows: Rows, by_phi: np.ndarray, by_attention: np.ndarray) -> np.ndarray:
    """Jaccard of the two criteria's tokens [n, layers], NaN in layers without heads."""
    bare = np.isnan(rows["column_mean"]).all((0, 2))
    return np.where(bare, np.nan, jaccard(by_phi, by_attention))


def jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a ∩ b| / |a ∪ b| over the last axis, NaN where neither has a token."""
    union = (a | b).sum(-1)
    return (a & b).sum(-1) / np.where(union > 0, union, np.nan)


def summary(rows: Rows, how: How) -> pd.DataFrame:
    """One row a statement: measure, against ("" or the control that is subtracted, paired), and the usual columns."""
    half = middle(rows["phi"].shape[1])
    by_phi, by_attention = criteria(rows, how)
    first = of_heads(rows["first_share"][:, half])
    first = first.mean((1, 2)) if first.size else np.full(len(by_phi), np.nan)
    agree, chance = (
        mean_of_present(agreement(rows, by_phi, x)[:, half]) for x in (by_attention, shuffled(rows, by_attention))
    )
    numbers = [
        (MASSIVE, "", _massive(rows, how), "share"),
        (FIRST, "", first, "share of attention"),
        (FIRST, UNIFORM, first - uniform_on_first(rows["length"]), "share of attention"),
        (AGREE, "", agree, "Jaccard"),
        (AGREE, SHUFFLED, agree - chance, "Jaccard"),
        (
            HIDDEN,
            "",
            mean_of_present((of_heads(rows["hidden_rate"][:, 2:-1]) >= 1).reshape(len(first), -1)),
            "share of heads",
        ),
        (SEPARATION, "", separation(rows, how), "share of tokens"),
    ]
    if "visual|phi" in rows.values:
        share = (rows["visual|sinks"] / rows["visual|tokens"])[:, half].mean(1)
        numbers.append((VISUAL, "", share, "share of image tokens"))
    if "masked|plain" in rows.values:
        numbers.append((MASKING, "guessing", (rows["masked|plain"] > 0) - 0.5, "share right"))
    frames = [
        summarise(values, rows.examples["group"], {}, unit, measure=measure, against=against)
        for measure, against, values, unit in numbers
    ]
    return pd.concat(frames, ignore_index=True)


def _massive(rows: Rows, how: How) -> np.ndarray:
    """Whether some state of an example exceeds both bounds in one of the dimensions, [n]."""
    peaks, medians = rows["peaks"], rows["median_magnitude"][..., None]
    return ((peaks > how.options.min_abs) & (peaks > how.options.min_ratio * medians)).any((1, 2)).astype(float)


def separation(rows: Rows, how: How) -> np.ndarray:
    """Share of middle states in which the first token is above τ, minus the other tokens' share, [n]."""
    phi = rows["phi"][:, middle(rows["phi"].shape[1])]
    above = np.where(np.isfinite(phi), phi >= (np.nan if how.learned.tau is None else how.learned.tau), np.nan)
    return mean_of_present(above[:, :, 0]) - mean_of_present(above[:, :, 1:].reshape(len(above), -1))


def separates_nothing(row: pd.Series | None) -> str:
    """Why τ tells nothing apart, by the row of SEPARATION; "" where it does, or where there is no τ."""
    if row is None or row["n"] == 0 or row["lower"] > 0 or (np.isnan(row["lower"]) and row["value"] > 0):
        return ""
    return f"τ separates nothing: the first token is above it in {row['value']:+.0%} more states than other tokens"


def blunt_tau(threshold: pd.DataFrame, separated: pd.Series | None) -> str:
    """Why φ ≥ τ names no sinks here: no τ, or one that separates nothing; or ""."""
    return _without_tau(threshold) or separates_nothing(separated)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """Every statement that this run asks about, each judged on its own row."""

    def row(measure: str, against: str = "") -> pd.Series | None:
        return one_row(tables["summary"], measure=measure, against=against)

    known = {statement.name: statement for statement in STATEMENTS}
    blunt = blunt_tau(tables["threshold"], row(SEPARATION))
    silent = blunt or _absent(row(AGREE), "neither criterion names a token")
    headless = _absent(row(FIRST), "no layer of the middle half has heads")
    shallow = _absent(row(HIDDEN), "this model has no layers 2 … L−2")
    made = [
        judge(known[MASSIVE], row(MASSIVE), note=_found(tables.get("dimensions"))),
        judge(known[FIRST], row(FIRST), margin=row(FIRST, UNIFORM), control=UNIFORM, untestable=headless),
        judge(known[AGREE], row(AGREE), margin=row(AGREE, SHUFFLED), control=SHUFFLED, untestable=silent),
        judge(known[HIDDEN], row(HIDDEN), untestable=shallow),
    ]
    if "visual" in tables:
        made.append(judge(known[VISUAL], row(VISUAL), untestable=blunt, note=_visual_sinks.largest(tables["visual"])))
    if "masking" in tables:
        masked = _visual_sinks.masked_at_tau(tables["masking"])
        why = blunt or unsolved(row(MASKING, "guessing")) or _visual_sinks.nothing_masked(masked)
        made.append(judge(known[MASKING], masked, untestable=why))
    return made


def _absent(row: pd.Series | None, why: str) -> str:
    return why if row is None or row["n"] == 0 else ""


def _without_tau(threshold: pd.DataFrame) -> str:
    return "" if threshold["value"].notna().any() else "no massive dimension was found, so φ has no threshold"


def _found(dimensions: pd.DataFrame | None) -> str:
    if dimensions is None or dimensions.empty:
        return "no such dimension"
    named = ", ".join(str(int(d)) for d in sorted(dimensions["dimension"].unique()))
    return f"dimensions {named}, largest mean |x| {dimensions['value'].max():,.0f}"
