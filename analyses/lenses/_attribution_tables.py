"""Tables of `logit_attribution`: parts and heads, the strongest heads beside others of their layers, their words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.claims import Statement
from ..common.controls import HEADS, Head
from ..common.frames import of_heads, summarise
from ..common.selection import at, at_random, halves
from ..common.tested import nothing, number

MEASURES = ("answer", "difference")


NO_OV = "no OV circuits were asked for, or a gate or a norm stands between values and W_O"


TOP = 10  # heads chosen on one half of the groups


LATE = 2 / 3  # of the depth: what lies behind is late


CLAIMS = (
    Statement(
        "late",
        "The heads that write the answer are late: of what the ten strongest add to the difference (each turned to its "
        "side), more than 70 % is added in the last third of the layers.",
        "arXiv 2211.00593",
        0.7,
    ),
    Statement(
        "few",
        "A few heads do the work: the ten strongest hold more than a third of what all heads add to the difference "
        "(each turned to its side).",
        "arXiv 2211.00593",
        1 / 3,
    ),
    Statement(
        "copy",
        "Heads that raise the answer copy what they attend to: their mean copying score, weighted by what they add, is "
        "above 0.5.",
        "arXiv 2211.00593",
        0.5,
    ),
)


def _measured(rows: Rows, name: str) -> list[tuple[str, str, np.ndarray]]:
    """(measure, control, values): the answer, the wrong answer as its control, the difference."""
    answer, difference = rows[name][:, 0], rows[name][:, 1]
    return [("answer", "", answer), ("answer", "wrong answer", answer - difference), ("difference", "", difference)]


def _parts(rows: Rows, how: How) -> pd.DataFrame:
    """By layer: all heads together with their biases, the MLP, and mixers in the place of attention (NaN where a layer
    has no such part); embedding and final bias have no layer."""
    groups, frames = rows.examples["group"], []
    summed = {"attention": rows["heads"].sum(3) + rows["attention bias"], "MLP": rows["mlp"]}
    summed |= {"mixer": rows["mixer"]} if "mixer" in rows.values else {}
    whole = {"embedding": rows["embedding"], "final bias": rows["final bias"]}
    for part, values in (summed | whole).items():
        held = Rows(rows.examples, {part: values})
        for measure, control, cells in _measured(held, part):
            axes = {"layer": np.arange(cells.shape[1])} if part in summed else {}
            frame = summarise(cells, groups, axes, "logits")
            frames.append(frame.assign(part=part, measure=measure, control=control))
    return pd.concat(frames, ignore_index=True)


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    _, _, layers, heads = rows["heads"].shape
    axes = {"layer": np.arange(layers), "head": np.arange(heads)}
    frames = [
        summarise(cells, rows.examples["group"], axes, "logits").assign(measure=measure, control=control)
        for measure, control, cells in _measured(rows, "heads")
    ]
    return pd.concat(frames, ignore_index=True)


class _Strongest(NamedTuple):
    """The heads with the largest mean |effect on the difference| on one half of the groups, as the other sees them.

    turned: what every head adds to the difference, its sign the first half's, [n, layer, head]; first: its mean on the
    first half.
    """

    heads: list[Head]
    first: np.ndarray
    turned: np.ndarray
    groups: pd.Series


def _strongest(rows: Rows) -> _Strongest | None:
    """None where one group cannot be halved."""
    chosen, other = halves(rows.examples["group"])
    if not chosen.any():
        return None
    effects = rows["heads"][:, 1]
    first = effects[chosen].mean(0)
    there = int((~np.isnan(first)).sum())  # NaN, of layers without heads, comes last
    order = np.argsort(-np.abs(first).ravel(), kind="stable")[: min(TOP, there)]
    heads = [(int(place) // first.shape[1], int(place) % first.shape[1]) for place in order]
    return _Strongest(heads, first, effects[other] * np.sign(first), rows.examples["group"][other])


def _top(rows: Rows, how: How) -> pd.DataFrame | None:
    """The strongest heads, and as many random other heads of their layers, mean over draws, drawn to the same side."""
    found = _strongest(rows)
    if found is None:
        return None
    layers, heads = np.array(found.heads).T
    first, ranks = found.first[layers, heads], {"rank": range(1, len(heads) + 1)}
    own = summarise(np.sign(first) * at(found.turned, found.heads), found.groups, ranks, "logits")
    random = summarise(np.sign(first) * at_random(found.turned, found.heads), found.groups, ranks, "logits")
    places = {"layer": layers, "head": heads, "measure": "difference"}
    control = random.assign(**places | {"head": -1}, control=HEADS)
    return pd.concat([own.assign(**places, chosen_on=first, control=""), control], ignore_index=True)


def _completeness(rows: Rows, how: How) -> pd.DataFrame:
    whole = np.nansum(rows["heads"], (2, 3)) + np.nansum(rows["attention bias"], 2) + rows["mlp"].sum(2)
    whole = whole + (np.nansum(rows["mixer"], 2) if "mixer" in rows.values else 0)
    error = np.abs(whole + rows["embedding"] + rows["final bias"] - rows["logit"])
    frames = [
        summarise(error[:, i], rows.examples["group"], {}, "logits").assign(
            measure=measure, largest=error[:, i].max(), logit=rows["logit"][:, i].mean()
        )
        for i, measure in enumerate(MEASURES)
    ]
    return pd.concat(frames, ignore_index=True)


def _words(rows: Rows, how: How) -> pd.DataFrame | None:
    """For every head its strongest prompts, each of another group: those where its first word gets the most logits."""
    if "word_ids" not in rows.values:
        return None
    logits, ids = rows["word_logits"], rows["word_ids"].astype(int)
    order = np.argsort(-logits[..., 0], axis=0, kind="stable")
    groups, names = rows.examples["group"].to_numpy(), rows.examples["id"].to_numpy()
    n, layers, heads, count = logits.shape
    found = []
    for layer, head in np.ndindex(layers, heads):
        if np.isnan(logits[:, layer, head]).all():  # a layer without heads
            continue
        for place, row in enumerate(_distinct(order[:, layer, head], groups, how.options.prompts), start=1):
            at = (row, layer, head)
            shared = {"layer": layer, "head": head, "prompt": place, "example": names[row]}
            values = zip(range(1, count + 1), ids[at].tolist(), logits[at].tolist(), strict=True)
            found += [shared | {"rank": r, "id": i, "value": v} for r, i, v in values]
    frame = pd.DataFrame(found)
    frame["token"] = rows.words(frame.pop("id").to_numpy())
    return frame.assign(unit="logits", n=n, n_groups=len(np.unique(groups)))


def _distinct(order: np.ndarray, groups: np.ndarray, count: int) -> list[int]:
    """The first `count` rows of `order` that are of different groups."""
    kept: dict[str, int] = {}
    for row in order.tolist():
        kept.setdefault(str(groups[row]), row)
        if len(kept) == count:
            break
    return list(kept.values())


def _ov(rows: Rows, how: How) -> pd.DataFrame | None:
    """The words of every head's OV circuit by singular direction, from the weights alone."""
    if "copying" not in rows.weights:
        return None
    frames = []
    for side in ("reads", "promotes"):
        ids = rows.weights[f"{side}_ids"].astype(int)
        layer, head, direction, rank = (axis.ravel() for axis in np.indices(ids.shape))
        frame = pd.DataFrame({"layer": layer, "head": head, "value": rows.weights[f"{side}_values"].ravel()})
        frame = frame.assign(unit="arbitrary", direction=direction + 1, rank=rank + 1, side=side)
        strength = rows.weights["strength"]
        frames.append(frame.assign(strength=strength[layer, head, direction], token=rows.words(ids).ravel()))
    frame = pd.concat(frames, ignore_index=True)
    return frame[frame["value"].notna()].reset_index(drop=True)  # without layers that have no heads


def _copying(rows: Rows, how: How) -> pd.DataFrame | None:
    """Every head's copying score, from the weights alone."""
    copying = rows.weights.get("copying")
    if copying is None:
        return None
    layer, head = (axis.ravel() for axis in np.indices(copying.shape))
    return pd.DataFrame({"layer": layer, "head": head, "value": copying.ravel(), "unit": "copying score"})


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    return pd.concat(_numbers(rows), ignore_index=True)


def _numbers(rows: Rows) -> list[pd.DataFrame]:
    found = _strongest(rows)
    if found is None:
        return [nothing(statement.name, "one group cannot be halved") for statement in CLAIMS]
    if reason := _untestable(rows, found):
        return [nothing(statement.name, reason) for statement in CLAIMS]
    return [_late(found), *_few(found), *_copy(found, rows.weights.get("copying"))]


def _untestable(rows: Rows, found: _Strongest) -> str:
    """Why there is nothing that heads could have written; or ""."""
    if not stats.group_bootstrap(rows["logit"][:, 1], rows.examples["group"]).lower > 0:
        return "the model does not prefer the answer here"
    if not stats.group_bootstrap(of_heads(found.turned).sum((1, 2)), found.groups).lower > 0:
        return "the two halves of the groups do not agree on what heads write"
    return ""


def _late(found: _Strongest) -> pd.DataFrame:
    late = np.array([layer for layer, _ in found.heads]) >= found.first.shape[0] * LATE
    own = at(found.turned, found.heads)
    unit = "share of what the strongest add"
    return number("late", own[:, late].sum(1), found.groups, unit, denominators=own.sum(1))


def _few(found: _Strongest) -> list[pd.DataFrame]:
    own, random = (of(found.turned, found.heads).sum(1) for of in (at, at_random))
    given = {"denominators": of_heads(found.turned).sum((1, 2))}
    unit = "share of what all heads add"
    margin = number("few", own - random, found.groups, unit, than=HEADS, **given)
    return [number("few", own, found.groups, unit, **given), margin]


def _copy(found: _Strongest, copying: np.ndarray | None) -> list[pd.DataFrame]:
    """The scores are the weights' and have no interval; what they are weighted by has."""
    raising = [head for head in found.heads if found.first[head] > 0]
    if copying is None or not raising:
        return [nothing("copy", NO_OV if copying is None else "no head raises the answer")]
    added, scores = at(found.turned, raising), (of(copying[None], raising) for of in (at, at_random))
    own, random = (added * score for score in scores)
    given, unit = {"denominators": added.sum(1)}, "copying score"
    margin = number("copy", (own - random).sum(1), found.groups, unit, than=HEADS, **given)
    return [number("copy", own.sum(1), found.groups, unit, **given), margin]


TABLES = {
    "parts": (_parts, ("part", "measure")),
    "heads": (_heads, ("measure",)),
    "top": (_top, ("rank", "measure", "chosen_on")),
    "completeness": (_completeness, ("measure", "largest", "logit")),
    "words": (_words, ("prompt", "example", "rank", "token")),
    "tested": (_tested, ("claim", "than", "untestable")),
}


RUN_TABLES = {"ov": (_ov, ("direction", "rank", "side", "strength", "token")), "copying": (_copying, ())}
