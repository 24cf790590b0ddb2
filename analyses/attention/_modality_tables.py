"""Tables of modality: shares by layer and head, what of them survives the sink twin, curves, steps, opinions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.controls import IMAGE as ANOTHER
from ..common.controls import UNIFORM
from ..common.frames import head_axes, joined, middle, summarise
from ..common.stats import quotient
from ..common.tested import nothing, number
from ._modality_rows import IMAGE, KEYS, QUERIES

NEUTRAL_TEXT = "neutral text in the image's place"
RANDOM_TEXT = "as many random text positions"
TEXT = [KEYS.index(name) for name in ("text before", "text behind")]
OPINIONS = {
    "a wrong opinion": "I think the answer is {wrong}.",
    "the right opinion": "I think the answer is {right}.",
    "a neutral sentence": "I have a question for you.",
}
WRONG, RIGHT, NEUTRAL = OPINIONS
AS_IT_IS, TWIN = "attention", "sink twin"
TENTH = 0.1
FLAT = 1e-6  # of a curve: what rounding leaves of one that does not vary
STEPS = 4  # of an answer, below which halves say nothing


def _even_twin(uniform: np.ndarray) -> np.ndarray:
    """Uniform attention without the first key, [n, layer, QUERIES, KEYS]."""
    even = uniform / (1 - uniform[..., :1])
    even[..., 0] = 0.0
    return even


def _kinds(rows: Rows) -> Iterator[tuple[str, str, np.ndarray]]:
    """(measure, control, values [n, layer, QUERIES, KEYS]): mean over heads of what is measured."""
    means = {AS_IT_IS: rows["mass"].mean(2), TWIN: rows["twin"].mean(2)}
    even = {AS_IT_IS: rows["uniform"], TWIN: _even_twin(rows["uniform"])}
    for name, own in means.items():
        yield name, "", own
        yield name, UNIFORM, even[name]
        yield f"lift, {name}", "", quotient(own, even[name])
        for control in (ANOTHER, NEUTRAL_TEXT):
            if (key := f"{'mass' if name == AS_IT_IS else 'twin'}|{control}") in rows.values:
                yield name, control, rows[key]


def _shares(rows: Rows, how: How) -> pd.DataFrame:
    """measure: attention, the sink twin, the lift of either over uniform attention, attention per key."""
    frames = []
    per_key = rows["mass"].mean(2) / np.where(rows["keys"] > 0, rows["keys"], np.nan)[:, None, None]
    for measure, control, values in [*_kinds(rows), ("attention per key", "", per_key)]:
        axes = {"layer": np.arange(values.shape[1]), "query": QUERIES, "key": KEYS}
        unit = "times uniform" if measure.startswith("lift") else "share of attention"
        frames.append(summarise(values, rows.examples["group"], axes, unit, measure=measure, control=control))
    for measure, key in ((AS_IT_IS, "mass"), (TWIN, "twin")):
        drawn = _random_text(rows[key].mean(2), rows["keys"])
        axes = {"layer": np.arange(drawn.shape[1]), "query": QUERIES, "key": ["image"]}
        told: dict[str, Any] = {"measure": measure, "control": RANDOM_TEXT}
        frames.append(summarise(drawn[..., None], rows.examples["group"], axes, "share of attention", **told))
    return joined(frames)


def _random_text(means: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """What as many random text positions as the image has tokens get, the first token left out, [n, layer, QUERIES]:
    its expectation over draws with replacement, so that no draw is needed and text may be shorter than the image.
    """
    per_key = quotient(means[..., TEXT].sum(-1), keys[:, TEXT].sum(1)[:, None, None])
    return per_key * keys[:, IMAGE][:, None, None]


def _ratio(share: np.ndarray) -> np.ndarray:
    """Attention on the image against all other."""
    return quotient(share, np.maximum(1 - share, 0.0))


def _ratios(rows: Rows) -> dict[str, np.ndarray]:
    """Of the last position, [n, layer, h]."""
    last = QUERIES.index("last")
    return {name: _ratio(rows[key][:, :, :, last, IMAGE]) for name, key in ((AS_IT_IS, "mass"), (TWIN, "twin"))}


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """Each head's attention on the image at the last position, its ratio to all other, both also of the sink twin."""
    last, frames = QUERIES.index("last"), []
    even = rows["uniform"][:, :, last, IMAGE]
    kinds: dict[tuple[str, str, str], np.ndarray] = {}
    for name, ratio in _ratios(rows).items():
        share = rows["mass" if name == AS_IT_IS else "twin"][:, :, :, last, IMAGE]
        kinds |= {(name, "", "share of attention"): share, (f"ratio, {name}", "", "image : all other"): ratio}
    kinds[AS_IT_IS, UNIFORM, "share of attention"] = np.broadcast_to(even[..., None], rows["mass"].shape[:3])
    for (measure, control, unit), values in kinds.items():
        frame = summarise(values, rows.examples["group"], head_axes(values), unit, measure=measure, control=control)
        frames.append(frame)
    return joined(frames)


def _survivors(rows: Rows, how: How) -> pd.DataFrame:
    """Of the tenth of the heads with the largest ratio the share that is in the sink twin's tenth, and by chance."""
    shared, chance = _surviving(rows)
    groups = rows.examples["group"]
    own = summarise(shared, groups, {}, "share of heads", control="")
    return pd.concat([own, summarise(chance, groups, {}, "share of heads", control="chance")], ignore_index=True)


def _surviving(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    own, twin = (ratio.reshape(len(ratio), -1) for ratio in _ratios(rows).values())
    known = ~(np.isnan(own) | np.isnan(twin))
    shared, chance = np.full(len(own), np.nan), np.full(len(own), np.nan)
    for i, there in enumerate(known):
        count = round(TENTH * there.sum())
        if count:
            tops = [set(np.argsort(-one[i][there], kind="stable")[:count].tolist()) for one in (own, twin)]
            shared[i], chance[i] = len(tops[0] & tops[1]) / count, count / there.sum()
    return shared, chance


def _curves(rows: Rows, how: How) -> pd.DataFrame:
    """Correlation over layers of the question's attention on the text before the image and on the text behind it."""
    frames = [
        summarise(_around(values), rows.examples["group"], {}, "correlation", measure=measure, control=control)
        for measure, control, values in _kinds(rows)
        if measure in (AS_IT_IS, TWIN) and control != UNIFORM
    ]
    return joined(frames)


def _around(values: np.ndarray) -> np.ndarray:
    """r of the two curves [n]; text before has the first token as well, which a sink twin does not have."""
    asked = values[:, :, QUERIES.index("question")]
    before = asked[..., KEYS.index("first")] + asked[..., KEYS.index("text before")]
    behind = asked[..., KEYS.index("text behind")]
    known = ~np.isnan(before[0]) if len(before) else slice(None)
    a, b = (torch.from_numpy(np.ascontiguousarray(curve[:, known])) for curve in (before, behind))
    flat = (before[:, known].std(1) < FLAT) | (behind[:, known].std(1) < FLAT)
    return np.where(flat, np.nan, metrics.correlation(a, b).numpy())


def _steps(rows: Rows, how: How) -> pd.DataFrame | None:
    """Attention on the image while the answer is written, mean over the middle half of the layers, and its lift."""
    if rows["steps"].shape[2] < 2:
        return None
    own, even = _middle(rows["steps"]), _middle(rows["even steps"])
    groups, axes = rows.examples["group"], {"step": np.arange(1, own.shape[1] + 1)}
    share: dict[str, Any] = {"unit": "share of attention", "measure": AS_IT_IS}
    frames = [
        summarise(own, groups, axes, **share, control=""),
        summarise(even, groups, axes, **share, control=UNIFORM),
        summarise(quotient(own, even), groups, axes, "times uniform", measure="lift", control=""),
    ]
    return joined(frames)


def _middle(values: np.ndarray) -> np.ndarray:
    """Mean over the middle half of the layers that have heads."""
    return np.nanmean(values[:, middle(values.shape[1])], 1)


def _opinions(rows: Rows, how: How) -> pd.DataFrame | None:
    """The last position's attention on the image with an opinion in front, minus that of the plain question."""
    plain, frames = _last_share(rows), []
    for opinion in OPINIONS:
        if f"share|{opinion}" in rows.values:
            less = rows[f"share|{opinion}"] - plain
            axes = {"layer": np.arange(less.shape[1])}
            told: dict[str, Any] = {"opinion": opinion, "control": "" if opinion == WRONG else opinion}
            frames.append(summarise(less, rows.examples["group"], axes, "share of attention", **told))
    return joined(frames) if frames else None


def _last_share(rows: Rows) -> np.ndarray:
    return rows["mass"].mean(2)[:, :, QUERIES.index("last"), IMAGE]


def _opinion_answers(rows: Rows, how: How) -> pd.DataFrame | None:
    """Right answers, and answers that are the wrong opinion's, without an opinion and with each."""
    frames = []
    for opinion in ("", *OPINIONS):
        if f"said|{opinion}" in rows.values:
            said = {
                "right": rows[f"said|{opinion}"][:, 0],
                "what the wrong opinion says": rows[f"said|{opinion}"][:, 1],
            }
            for answer, values in said.items():
                told: dict[str, Any] = {"answer": answer, "opinion": opinion or "no opinion"}
                frames.append(summarise(values, rows.examples["group"], {}, "share of answers", **told))
    return pd.concat(frames, ignore_index=True) if frames else None


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups = rows.examples["group"]
    made = (_per_key(rows), _early(rows), _visual(rows), _forgotten(rows))
    frames = [nothing(claim, why) if why else number(claim, values, groups, unit) for claim, values, unit, why in made]
    return pd.concat([*frames, *_wings(rows), *_taken(rows)], ignore_index=True)


Number = tuple[str, Any, str, str]  # claim, values [n], unit, why there is none


def _per_key(rows: Rows) -> Number:
    asked = rows["twin"].mean(2)[:, :, QUERIES.index("question")]
    asked = asked[:, middle(asked.shape[1])]
    image = np.nanmean(asked[..., IMAGE], 1) / rows["keys"][:, IMAGE]
    words = np.nanmean(asked[..., TEXT].sum(-1), 1) / rows["keys"][:, TEXT].sum(1)
    return "text over image, per key", np.log(quotient(image, words)), "ln (image key / text key)", ""


def _early(rows: Rows) -> Number:
    question = QUERIES.index("question")
    lift = quotient(rows["twin"].mean(2), _even_twin(rows["uniform"]))[:, :, question, IMAGE]
    third = max(1, lift.shape[1] // 3)
    return "the image early", np.nanmean(lift[:, :third], 1) - np.nanmean(lift[:, -third:], 1), "times uniform", ""


def _visual(rows: Rows) -> Number:
    shared, chance = _surviving(rows)
    return "visual heads", shared - chance, "share of heads above chance", ""


def _forgotten(rows: Rows) -> Number:
    lift = quotient(_middle(rows["steps"]), _middle(rows["even steps"]))
    count = (~np.isnan(lift)).sum(1)
    enough = lift[count >= STEPS]
    if not len(enough):
        why = f"no answer has {STEPS} steps here: --answer-tokens 32 takes the model's own"
        return "the image is forgotten", None, "", why
    fall = np.full(len(lift), np.nan)
    for i in np.flatnonzero(count >= STEPS):
        half = count[i] // 2
        fall[i] = lift[i, half : count[i]].mean() - lift[i, :half].mean()
    return "the image is forgotten", fall, "times uniform", ""


def _wings(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "before against behind", rows.examples["group"]
    own = _around(rows["twin"].mean(2))
    if np.isnan(own).all():
        return [nothing(claim, "there is no text before the image but the first token")]
    beside = _around(rows[f"twin|{NEUTRAL_TEXT}"])
    unit = "correlation"
    return [number(claim, own, groups, unit), number(claim, own - beside, groups, unit, than=NEUTRAL_TEXT)]


def _taken(rows: Rows) -> list[pd.DataFrame]:
    claim, groups, unit = "opinions take attention away", rows.examples["group"], "share of attention"
    if f"share|{WRONG}" not in rows.values:
        return [nothing(claim, "no opinions were put in front: they need a question with right and wrong answers")]
    shares = {opinion: _middle(rows[f"share|{opinion}"]) for opinion in OPINIONS}
    margins = [number(claim, shares[WRONG] - shares[o], groups, unit, than=o) for o in (NEUTRAL, RIGHT)]
    return [number(claim, shares[WRONG] - _middle(_last_share(rows)), groups, unit), *margins]


TABLES = {
    "shares": (_shares, ("query", "key", "measure")),
    "heads": (_heads, ("measure",)),
    "survivors": (_survivors, ()),
    "curves": (_curves, ("measure",)),
    "steps": (_steps, ("step", "measure")),
    "opinions": (_opinions, ("opinion",)),
    "opinion_answers": (_opinion_answers, ("answer", "opinion")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
