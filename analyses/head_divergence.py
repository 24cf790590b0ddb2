"""Head divergence: which heads read the image?

A head's output before W_O at the position that predicts a token, with the image and without it (VHD); summed over the
most divergent heads of every layer (T-VHD of the token). Whole answers by teacher forcing: one pass with the image,
one for every way to take it away. Without an answer in the prompt, the next token alone is asked about.

Tables: heads, layers, excess, stability, words, auroc, captions; see `tables` for their columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..data.example import Example
from ..probes.attention import Edit
from ..probes.batch import Batch
from ..probes.blind import drop_image, hide_image, image_columns, moved, predicting
from ..probes.rows import Rows
from ..probes.trace import Layer, tracing
from . import metrics, stats
from .claims import Claim, verdict
from .frames import head_axes, order_columns, summarise

VERSION = 1
QUESTION = "Which heads read the image, and do hallucinated words read it less than correct ones?"
PAPER = "arXiv 2412.13949 (VHD, T-VHD); the relative and cosine forms, masking and swapping are added here"
KINDS = {"l2": "norm of z", "relative": "share of the norms", "cosine": "1 − cosine"}
WAYS = ("dropped", "masked", "swapped")
QUESTION_CHANGED = "question changed"
EXCESS = "leading tenth above its control"
SHOWN = 6  # captions kept for the figure


@dataclass(frozen=True)
class Options:
    """How the image is taken away, and what T-VHD sums.

    ways: "dropped" (its tokens removed, the texts' positions move up), "masked" (positions stay, nobody reads it),
    "swapped" (an unrelated example's image in its place; also the control for the other two). The first is the one
    that the claims are about. question: the text that replaces the question in the control; "" leaves the control
    out. k: heads of each layer in T-VHD. strata: bins of equal count over the place in the answer, within which
    hallucinated and correct words are compared. bins: of the histograms.
    """

    ways: tuple[str, ...] = WAYS
    question: str = "Say something."
    k: int = 4
    strata: int = 4
    bins: int = 20


def methods(options: Options) -> str:
    """The methods sentence of the page."""
    return (
        "Every prompt with its whole answer was read once with its image and once for each way of taking it away "
        f"({', '.join(options.ways)}); z is compared at the positions that predict the answer's tokens and averaged "
        f"over them. T-VHD of a token is the sum over layers of its {options.k} largest L2 divergences; a word's is "
        f"its first token's. Words are compared within {options.strata} strata of their place in the answer. Controls: "
        "another image in place of the image, another question in place of the question."
    )


def layer_rows(layer: Layer, batch: Batch, options: Options) -> dict[str, Tensor]:
    """z at the positions that predict the answer, [b, n, h, d]: what `finish` compares the other passes with."""
    if layer.index == 0:
        image_columns(layer.subject, batch.inputs, batch.example_ids)
    return {"z": _at(layer.z, predicting(batch)).float()}


def finish(subject: Any, batch: Batch, kept: dict[str, Tensor], options: Options) -> dict[str, Tensor]:
    """One pass for every way and for the control, reduced layer by layer while it runs.

    Rows: "<way>|<kind>" [b, layers, h], mean over the answer's tokens; "<way>|odd", "<way>|even" over every other
    token (L2); "<way>|t_vhd" [b, n]; "correct", "hallucinated" [b, n]: the first tokens of such words; "end" [b, n]:
    where each token ends in the answer's text.
    """
    seen, rows = kept.pop("z"), {}
    b, layers, n, h, _ = seen.shape
    for way, chosen, inputs, places, edit in _passes(subject, batch, options):
        found = compare(subject, seen[chosen], inputs, places, edit, options.k) if chosen else {}
        for name in (*KINDS, "odd", "even", "t_vhd"):
            whole = torch.full((b, n) if name == "t_vhd" else (b, layers, h), torch.nan)
            if chosen:
                whole[chosen] = found[name]
            rows[f"{way}|{name}"] = whole
    return rows | _words(batch)


def compare(
    subject: Any, seen: Tensor, inputs: Any, places: Tensor, edit: Edit | None = None, k: int = 4
) -> dict[str, Tensor]:
    """Divergences of one more pass from `seen` [b, layers, n, h, d], at `places` Int[b, n] (-1: no token there)."""
    there = places >= 0
    sums: dict[str, list[Tensor]] = {name: [] for name in (*KINDS, "odd", "even")}
    total = torch.zeros(places.shape)

    def on_layer(layer: Layer) -> None:
        nonlocal total
        z = _at(layer.z, places).float().cpu()
        for kind in KINDS:
            vhd = metrics.head_divergence(seen[:, layer.index], z, kind=kind)
            sums[kind].append(_mean(vhd, there))
            if kind == "l2":
                total = total + metrics.total_divergence(vhd[..., None, :], min(k, vhd.shape[-1]))
                for first, name in enumerate(("odd", "even")):
                    every_other = there & (torch.arange(there.shape[1]) % 2 == first)
                    sums[name].append(_mean(vhd, every_other))

    with tracing(subject, on_layer, dict.fromkeys(range(subject.n_layers), edit) if edit else None):
        subject.forward(inputs)
    rows = {name: torch.stack(parts, 1) for name, parts in sums.items()}
    return rows | {"t_vhd": total.masked_fill(~there, torch.nan)}


def _at(z: Tensor, places: Tensor) -> Tensor:
    """z [b, p, h, d] at places [b, n] -> [b, n, h, d], zeros where there is none."""
    rows = torch.arange(len(z), device=z.device)[:, None]
    return z[rows, places.to(z.device).clamp(min=0)] * (places >= 0).to(z.device)[..., None, None]


def _mean(vhd: Tensor, there: Tensor) -> Tensor:
    """[b, n, h] -> [b, h], the mean over the tokens that are there; NaN without one."""
    return torch.where(there[..., None], vhd, 0.0).sum(1) / there.sum(1, keepdim=True)


Pass = tuple[str, list[int], Any, Tensor, Edit | None]


def _passes(subject: Any, batch: Batch, options: Options) -> Iterator[Pass]:
    """Name, examples, inputs, predicting positions and edit of every further pass."""
    everyone, places = list(range(len(batch.examples))), predicting(batch)
    for way in options.ways:
        if way == "dropped":
            blind, stayed = drop_image(subject, batch.inputs)
            yield way, everyone, blind, moved(stayed, places), None
        elif way == "masked":
            yield way, everyone, batch, places, hide_image(image_columns(subject, batch.inputs))
        elif way == "swapped":
            yield _variant(subject, batch, way, [_with_other_image(e) for e in batch.examples])
        else:
            raise ValueError(f"unknown way {way!r}: one of {', '.join(WAYS)}")
    if options.question:
        changed = [_with_other_question(e, options.question) for e in batch.examples]
        yield _variant(subject, batch, QUESTION_CHANGED, changed)


def _variant(subject: Any, batch: Batch, name: str, changed: list[Example | None]) -> Pass:
    """A pass over those examples that have a variant, made of the changed examples."""
    chosen = [i for i, example in enumerate(changed) if example is not None]
    if not chosen:
        return name, [], None, torch.empty(0), None
    other = subject.batch([e for e in changed if e is not None], **batch.form)
    n = predicting(batch).shape[1]
    return name, chosen, other, pad(predicting(other), (0, n), value=-1)[:, :n], None


def _with_other_image(example: Example) -> Example | None:
    """The example with the images of an unrelated one; None where there are none."""
    if not example.unrelated:
        return None
    others = iter(example.unrelated)
    segments = tuple(s if isinstance(s.content, str) else s._replace(content=next(others)) for s in example.segments)
    return replace(example, segments=segments, boxes={})


def _with_other_question(example: Example, question: str) -> Example | None:
    """The example with another text in its first question, further ones left out; None without a question."""
    asked = [i for i, s in enumerate(example.segments) if s.role == "question"]
    if not asked:
        return None
    said = str(example.segments[asked[0]].content)
    space = said[: len(said) - len(said.lstrip())]
    segments = [
        s._replace(content=f"{space}{question}", marks={}) if i == asked[0] else s
        for i, s in enumerate(example.segments)
        if i not in asked[1:]
    ]
    return replace(example, segments=tuple(segments))


def _words(batch: Batch) -> dict[str, Tensor]:
    """First tokens of correct and hallucinated words among the predicted tokens, and where each token's text ends."""
    places = predicting(batch)
    now, after = places.clamp(min=0), (places + 1).clamp(min=0, max=batch.roles.shape[1] - 1)
    told = (places >= 0) & batch.where("answer").gather(1, after)
    rows = {}
    for name in ("correct", "hallucinated"):
        mark = batch.marks.get(name, torch.zeros_like(batch.roles, dtype=torch.bool))
        first = mark.gather(1, after) & ~mark.gather(1, now)
        rows[name] = first.float().masked_fill(~told, torch.nan)
    ids = batch.inputs["input_ids"].cpu().gather(1, after)
    ends = torch.full(places.shape, torch.nan)
    for row, (own, real) in enumerate(zip(ids, told, strict=True)):
        words = own[real].tolist()
        lengths = [
            len(batch.tokenizer.decode(words[: i + 1], clean_up_tokenization_spaces=False)) for i in range(len(words))
        ]
        ends[row, : len(lengths)] = torch.tensor(lengths, dtype=torch.float)
    return rows | {"end": ends}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    passes = len(options.ways) + bool(options.question)
    return passes * (len(KINDS) + 2) * subject.n_layers * subject.n_heads + (passes + 3) * positions


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """All tables carry condition, value, lower, upper, n, n_groups and unit where they apply; further columns:

    heads: control layer head way measure ("l2", "relative", "cosine"), mean over the answer's tokens. layers: the same,
    averaged over heads. excess: a way's divergence minus a control's (layer, head, measure, control, p_value, q_value).
    stability: measure, way. words: histograms of T-VHD (way, level, kind, bin, left, right). auroc: way, level, and how
    many of each kind. captions: way, example, position, token, kind.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for condition, mine in rows.conditions():
        for name, make in _TABLES.items():
            for way in [w for w in (*options.ways, QUESTION_CHANGED) if f"{w}|l2" in mine.values]:
                frame = make(mine, way, options)
                parts.setdefault(name, []).append(frame.assign(condition=condition, way=way))
    return {name: order_columns(pd.concat(frames, ignore_index=True)) for name, frames in parts.items()}


def _control(way: str) -> str:
    return {"swapped": "another image", QUESTION_CHANGED: "another question"}.get(way, "")


def _heads(rows: Rows, way: str, options: Options) -> pd.DataFrame:
    groups = rows.examples["group"]
    frames = [
        summarise(rows[f"{way}|{kind}"], groups, head_axes(rows[f"{way}|{kind}"]), unit).assign(measure=kind)
        for kind, unit in KINDS.items()
    ]
    return pd.concat(frames, ignore_index=True).assign(control=_control(way))


def _layers(rows: Rows, way: str, options: Options) -> pd.DataFrame:
    frames = []
    for kind, unit in KINDS.items():
        values = rows[f"{way}|{kind}"].mean(2)
        frame = summarise(values, rows.examples["group"], head_axes(values), unit)
        frames.append(frame.assign(measure=kind, control=_control(way)))
    return pd.concat(frames, ignore_index=True)


def _excess(rows: Rows, way: str, options: Options) -> pd.DataFrame:
    """The paired difference of every head to the controls, with Benjamini–Hochberg over the heads of a map."""
    others = [o for o in ("swapped", QUESTION_CHANGED) if f"{o}|l2" in rows.values and not _control(way)]
    frames = []
    for other in others:
        for kind, unit in KINDS.items():
            mine, control = rows[f"{way}|{kind}"], rows[f"{other}|{kind}"]
            if np.isnan(control).all():
                continue
            found = stats.paired_difference(mine, control, rows.examples["group"])
            frame = summarise(mine - control, rows.examples["group"], head_axes(mine), unit)
            p = found.p_value.ravel()
            frames.append(
                frame.assign(measure=kind, control=_control(other), p_value=p, q_value=stats.benjamini_hochberg(p))
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _stability(rows: Rows, way: str, options: Options) -> pd.DataFrame:
    """How alike the ranking of the heads is from example to example and from token to token, and how few lead it."""
    maps = rows[f"{way}|l2"].reshape(len(rows.examples), -1)
    known: np.ndarray = np.asarray(np.isfinite(maps).all(1))
    maps, groups = maps[known], rows.examples["group"].to_numpy()[known]
    if len(np.unique(groups)) < 2:
        return pd.DataFrame()
    odd, even = (rows[f"{way}|{name}"].reshape(len(known), -1)[known] for name in ("odd", "even"))
    others = (maps.sum(0) - maps) / (len(maps) - 1)
    first, second = stats.split_half(groups)
    leading = np.argsort(-maps[first].mean(0), kind="stable")[: max(1, maps.shape[1] // 10)]
    measured = {
        "ranking, example to example": (_spearman(maps, others), "rank correlation", None),
        "ranking, token to token": (_spearman(odd, even), "rank correlation", None),
        "share of the leading tenth": (maps[:, leading].sum(1), "share of the sum", maps.sum(1)),
    }
    if f"{QUESTION_CHANGED}|relative" in rows.values and not _control(way):
        found = (rows[f"{w}|relative"].reshape(len(known), -1)[known] for w in (way, QUESTION_CHANGED))
        mine, control = found
        best = np.argsort(-mine[first].mean(0), kind="stable")[: max(1, mine.shape[1] // 10)]
        gap = (mine - control)[:, best].mean(1)
        measured[EXCESS] = (gap, "relative divergence", np.ones(len(maps)))
    frames = []
    for name, (values, unit, below) in measured.items():
        held = second if below is not None else np.ones(len(maps), bool)
        below = None if below is None else below[held]
        frames.append(summarise(values[held], groups[held], {}, unit, denominators=below).assign(measure=name))
    return pd.concat(frames, ignore_index=True).assign(control=_control(way))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation over the heads, one per example; NaN where an example has too few tokens for one side."""
    ranks = [pd.DataFrame(x).rank(axis=1).to_numpy() for x in (a, b)]
    a, b = (r - r.mean(1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def _items(rows: Rows, way: str, options: Options, level: str) -> pd.DataFrame:
    """Words (first tokens), or whole answers that name an object: score, hallucinated, stratum, group."""
    score, wrong, right = rows[f"{way}|t_vhd"], rows["hallucinated"] == 1, rows["correct"] == 1
    groups = rows.examples["group"].to_numpy()
    if level == "caption":
        named = (wrong | right).any(1) & np.isfinite(score).any(1)
        there = np.isfinite(score[named])
        means = np.where(there, score[named], 0).sum(1) / there.sum(1)
        return pd.DataFrame({"score": means, "wrong": wrong[named].any(1), "stratum": 0, "group": groups[named]})
    example, place = np.nonzero((wrong | right) & np.isfinite(score))
    edges = np.quantile(place, np.linspace(0, 1, options.strata + 1)[1:-1]) if len(place) else []
    values = {"score": score[example, place], "wrong": wrong[example, place]}
    return pd.DataFrame({**values, "stratum": np.digitize(place, edges), "group": groups[example]})


LEVELS = ("word, within strata of its place", "word", "caption")


def _auroc(rows: Rows, way: str, options: Options) -> pd.DataFrame:
    """How often a correct word (or caption without a hallucination) has the larger T-VHD; chance ½."""
    made = []
    for level in LEVELS:
        items = _items(rows, way, options, level)
        right, wrong = int((~items["wrong"]).sum()), int(items["wrong"].sum())
        if right and wrong:
            strata = items["stratum"] if level == LEVELS[0] else np.zeros(len(items))
            found = stats.stratified_auroc(items["score"], ~items["wrong"], strata, items["group"])
            value, lower, upper = (float(x) for x in found)
            counts = {"n": len(items), "n_groups": items["group"].nunique(), "unit": "AUROC"}
            counts |= {"n_correct": right, "n_hallucinated": wrong}
            made.append({"level": level, "value": value, "lower": lower, "upper": upper, **counts})
    return pd.DataFrame(made).assign(control=_control(way))


def _words_table(rows: Rows, way: str, options: Options) -> pd.DataFrame:
    """Shares of correct and of hallucinated words (captions) by T-VHD, in bins of equal width."""
    frames = []
    for level in LEVELS[1:]:
        items = _items(rows, way, options, level)
        if items.empty:
            continue
        edges = np.histogram_bin_edges(items["score"], options.bins)
        inside = np.clip(np.digitize(items["score"], edges[1:-1]), 0, options.bins - 1)
        for wrong, kind in ((False, "correct"), (True, "hallucinated")):
            mine = (items["wrong"] == wrong).to_numpy()
            if not mine.any():
                continue
            hits = (inside[mine][:, None] == np.arange(options.bins)).astype(float)
            frame = summarise(hits, items["group"][mine], {"bin": range(options.bins)}, "share of its kind")
            frames.append(frame.assign(kind=kind, level=level, left=edges[:-1], right=edges[1:]))
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return frame.assign(control=_control(way))


def _captions(rows: Rows, way: str, options: Options) -> pd.DataFrame:
    """T-VHD of every token of the first answers that were said by the model itself, hallucinated ones first."""
    if "said" not in rows.examples or _control(way):
        return pd.DataFrame()
    wrong = (rows["hallucinated"] == 1).any(1)
    chosen = np.argsort(~wrong, kind="stable")[:SHOWN]
    made = []
    for i in chosen:
        text, ends = str(rows.examples["said"].iloc[i]), rows["end"][i]
        starts = np.concatenate([[0], ends[:-1]])
        for j in np.nonzero(np.isfinite(ends))[0]:
            marks = {"hallucinated": rows["hallucinated"][i, j] == 1, "correct": rows["correct"][i, j] == 1}
            kind = next((name for name, there in marks.items() if there), "")
            token = text[int(starts[j]) : int(ends[j])]
            value = {"value": float(rows[f"{way}|t_vhd"][i, j]), "unit": "norm of z, summed", "n": 1}
            made.append({"example": rows.examples["id"].iloc[i], "position": j, "token": token, "kind": kind, **value})
    return pd.DataFrame(made).assign(control="")


_TABLES = {
    "heads": _heads,
    "layers": _layers,
    "excess": _excess,
    "stability": _stability,
    "words": _words_table,
    "auroc": _auroc,
    "captions": _captions,
}


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's statements, on the first way; thresholds set before any number was seen."""
    condition, way = (tables["heads"][c].iloc[0] for c in ("condition", "way"))
    mine = {
        name: table[(table["condition"] == condition) & (table["way"] == way)] if len(table) else table
        for name, table in tables.items()
    }
    found = [_claim_few(mine["stability"], way), _claim_excess(mine["stability"], way)]
    return [*found, _claim_stable(mine["stability"]), _claim_words(mine["auroc"])]


def _claim_few(stability: pd.DataFrame, way: str) -> Claim:
    text = (
        "Few heads read the image: the tenth of the heads that leads on one half of the groups holds more than 30 % of "
        f"the summed divergence (image {way}) on the other."
    )
    value, lower, upper, n = _one(stability, "share of the leading tenth")
    return Claim(text, "arXiv 2412.13949", _said(value, lower, upper, n), verdict(lower > 0.3, upper < 0.3))


def _claim_excess(stability: pd.DataFrame, way: str) -> Claim:
    text = (
        "The leading heads react to the image and not to any change of the prompt: the tenth that leads by relative "
        f"divergence on one half of the groups diverges more with the image {way} than under another question on the "
        "other."
    )
    source = "arXiv 2412.13949; the control is added here"
    value, lower, upper, n = _one(stability, EXCESS)
    if not n:
        return Claim(text, source, "no question to change", verdict(False, False))
    return Claim(text, source, _said(value, lower, upper, n), verdict(lower > 0, upper < 0))


def _claim_stable(stability: pd.DataFrame) -> Claim:
    text = "The ranking of the heads is one of the model: an example's correlates with the others' above 0.8."
    value, lower, upper, n = _one(stability, "ranking, example to example")
    return Claim(text, "arXiv 2412.13949", _said(value, lower, upper, n), verdict(lower > 0.8, upper < 0.8))


def _claim_words(auroc: pd.DataFrame) -> Claim:
    text = (
        "Hallucinated words have a smaller T-VHD than correct ones: AUROC above 0.5 among words of the same stratum of "
        "places in the answer."
    )
    mine = auroc[auroc["level"] == LEVELS[0]] if len(auroc) else auroc
    if mine.empty:
        return Claim(text, "arXiv 2412.13949", "no hallucinated or no correct words here", verdict(False, False))
    row = mine.iloc[0]
    numbers = (
        f"AUROC {row['value']:.2f} [{row['lower']:.2f}, {row['upper']:.2f}], {row['n_correct']} correct and "
        f"{row['n_hallucinated']} hallucinated words in {row['n_groups']} groups"
    )
    return Claim(text, "arXiv 2412.13949", numbers, verdict(row["lower"] > 0.5, row["upper"] < 0.5))


def _one(stability: pd.DataFrame, measure: str) -> tuple[float, float, float, int]:
    rows = stability[stability["measure"] == measure] if len(stability) else stability
    if rows.empty:
        return np.nan, np.nan, np.nan, 0
    row = rows.iloc[0]
    return row["value"], row["lower"], row["upper"], row["n"]


def _said(value: float, lower: float, upper: float, n: int) -> str:
    return f"{value:.2f} [{lower:.2f}, {upper:.2f}], n = {n}"
