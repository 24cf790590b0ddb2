"""Tables of head divergence by word: does T-VHD tell hallucinated words, sentences and captions from correct ones?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import Rows
from ..common import stats
from ..common.frames import summarise
from ._answer_words import SENTENCE
from ._divergence_heads import control_of, controls

STRATIFIED = "word, within strata of its place"
LEVELS = (STRATIFIED, "word", SENTENCE, "caption")
SHOWN = 6  # captions kept for the figure


def items(rows: Rows, score: np.ndarray, level: str, strata: int) -> pd.DataFrame:
    """What is compared at a level, one row each: score, wrong, stratum, group.

    score: T-VHD of tokens [n, tokens]. A word's is its first token's; a sentence's or caption's, of those that name an
    object, the mean over its tokens, and it is wrong if it holds a hallucinated word. Strata of words: bins of equal
    count over their places, one for all other levels.
    """
    groups = rows.examples["group"].to_numpy()
    if level in (SENTENCE, "caption"):
        return _stretches(rows, score, level).assign(stratum=0, group=lambda frame: groups[frame["example"]])
    wrong, right = rows["hallucinated"] == 1, rows["correct"] == 1
    example, place = np.nonzero((wrong | right) & np.isfinite(score))
    edges = np.quantile(place, np.linspace(0, 1, strata + 1)[1:-1]) if len(place) and level == STRATIFIED else []
    values = {"example": example, "score": score[example, place], "wrong": wrong[example, place]}
    return pd.DataFrame({**values, "stratum": np.digitize(place, edges), "group": groups[example]})


def _stretches(rows: Rows, score: np.ndarray, level: str) -> pd.DataFrame:
    """example, score, wrong of every sentence (or whole answer) that names an object."""
    number = rows[SENTENCE] if level == SENTENCE else np.zeros(score.shape)
    example, place = np.nonzero(np.isfinite(score) & np.isfinite(rows[SENTENCE]))
    wrong = rows["hallucinated"][example, place] == 1
    named = wrong | (rows["correct"][example, place] == 1)
    values = {"score": score[example, place], "wrong": wrong, "named": named}
    tokens = pd.DataFrame({"example": example, "number": number[example, place], **values})
    found = tokens.groupby(["example", "number"], as_index=False).agg({"score": "mean", "wrong": "any", "named": "any"})
    return found.loc[found["named"], ["example", "score", "wrong"]].reset_index(drop=True)


def auroc(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """How often a correct word (sentence, caption) has a larger T-VHD than a hallucinated one; chance ½."""
    measured = []
    for level in LEVELS:
        some = items(rows, rows[f"{way}|t_vhd"], level, options.strata)
        if some["wrong"].nunique() == 2:
            found = stats.stratified_auroc(some["score"], ~some["wrong"], some["stratum"], some["group"])
            counts = {"n_correct": int((~some["wrong"]).sum()), "n_hallucinated": int(some["wrong"].sum())}
            measured.append({"level": level, **_row(found, some), **counts})
    return pd.DataFrame(measured).assign(control=control_of(way))


def margins(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """The AUROC of every level minus that of each control, over the words that both have."""
    measured = []
    for other, name in controls(rows, way):
        scores = [rows[f"{w}|t_vhd"] for w in (way, other)]
        both = np.isfinite(scores).all(0)
        for level in LEVELS:
            own, theirs = (items(rows, np.where(both, s, np.nan), level, options.strata) for s in scores)
            if own["wrong"].nunique() == 2:
                found = stats.auroc_difference(
                    own["score"], theirs["score"], ~own["wrong"], own["stratum"], own["group"]
                )
                measured.append({"measure": level, "control": name, **_row(found, own)})
    return pd.DataFrame(measured)


def _row(found: stats.Estimate, some: pd.DataFrame) -> dict[str, Any]:
    bounds = dict(zip(("value", "lower", "upper"), map(float, found), strict=True))
    return {**bounds, "n": len(some), "n_groups": some["group"].nunique(), "unit": "AUROC"}


def histograms(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """Shares of correct and of hallucinated words (sentences, captions) by T-VHD, in bins of equal width."""
    frames = []
    for level in LEVELS[1:]:
        some = items(rows, rows[f"{way}|t_vhd"], level, options.strata)
        if some.empty:
            continue
        edges = np.histogram_bin_edges(some["score"], options.bins)
        inside = np.clip(np.digitize(some["score"], edges[1:-1]), 0, options.bins - 1)
        for wrong, kind in ((False, "correct"), (True, "hallucinated")):
            of_kind = (some["wrong"] == wrong).to_numpy()
            if of_kind.any():
                hits = (inside[of_kind][:, None] == np.arange(options.bins)).astype(float)
                frame = summarise(hits, some["group"][of_kind], {"bin": range(options.bins)}, "share of its kind")
                frames.append(frame.assign(kind=kind, level=level, left=edges[:-1], right=edges[1:]))
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return frame.assign(control=control_of(way))


def captions(rows: Rows, way: str, options: Any) -> pd.DataFrame:
    """T-VHD of every token of the first answers that were said by the model itself, hallucinated ones first."""
    if "said" not in rows.examples or control_of(way):
        return pd.DataFrame()
    wrong = (rows["hallucinated"] == 1).any(1)
    shown = np.argsort(~wrong, kind="stable")[:SHOWN]
    return pd.DataFrame([token for i in shown for token in _tokens(rows, way, int(i))]).assign(control="")


def _tokens(rows: Rows, way: str, i: int) -> list[dict[str, Any]]:
    """The tokens of one answer: text, kind of the word that begins there, T-VHD."""
    text, ends = str(rows.examples["said"].iloc[i]), rows["end"][i]
    starts, tokens = np.concatenate([[0], ends[:-1]]), []
    for j in np.nonzero(np.isfinite(ends))[0]:
        kind = next((name for name in ("hallucinated", "correct") if rows[name][i, j] == 1), "")
        token = text[int(starts[j]) : int(ends[j])]
        value = {"value": float(rows[f"{way}|t_vhd"][i, j]), "unit": "norm of z, summed", "n": 1}
        tokens.append({"example": rows.examples["id"].iloc[i], "position": j, "token": token, "kind": kind, **value})
    return tokens
