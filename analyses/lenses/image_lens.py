"""Image-token lens: which words the image tokens decode to, state by state

Tables: agreement (the lens names the object under a patch, among the options of the question), entropy, grid and
pictures (the words of the first examples).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.example import is_single_token
from ...data.tokens import ids_in_text
from ...probes.model.head import in_rows
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.activations import take
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.claims import Claim, Statement, judge, one_row
from ..common.frames import joined, summarise
from ..common.thumbnails import ASKED, SIDE, first_of_groups, picture_rows, picture_table, unmapped
from ._image_findings import OVER_CHANCE, OVER_OTHER, findings

__all__ = ["findings"]

VERSION = 3
QUESTION = "What does the logit lens read from each image token, and is it what the picture shows there?"
PAPER = "logit lens on image tokens, as in MMNeuron, arXiv 2406.11193 (-style)"
# Which image tokens: the asked object's, the other objects', the rest.
_PLACES = {"asked": "asked object", "other": "other objects", "rest": "background"}


@dataclass(frozen=True)
class Options:
    """words: top words kept for every image token. shown: examples whose grids are kept. asked, other: marks over the
    image tokens of the object that the answer is about, and of the others.
    """

    words: int = 3
    shown: int = 4
    asked: str = "asked_object"
    other: str = "other_objects"


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Every state of every image token goes through the model's final norm and unembedding. Agreement: the share of "
        "the asked object's patches at which the answer is the most likely of the question's possible answers (the "
        "example's answer and its wrong answers); chance is one in so many. Controls: the same at the patches of the "
        "other objects and of the background. Named: the answer is the most likely word of the whole vocabulary. The "
        "image comes before the question, so no patch knows what is asked."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """The states of the image tokens, [b, image tokens, d]. UserError: an example without an image."""
    if not batch.where("image").any(1).all():
        missing = next(e.id for e, has in zip(batch.examples, batch.where("image").any(1), strict=True) if not has)
        raise UserError(f"example {missing} has no image tokens: image_lens needs a task with pictures")
    kept = {"resid": take(layer.resid_pre, batch, "patches")}
    is_last = layer.index == layer.subject.n_layers - 1
    return kept | ({"final": take(layer.resid_post, batch, "patches")} if is_last else {})


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "agreement|<place>", "named|<place>", "entropy|<place>" [b, states], "chance" [b]; "ids", "probability"
    [b, states, image tokens, words]; and what maps need (`picture_rows`).
    """
    states = torch.cat([kept["resid"], kept["final"]], 1)
    read = [_read(subject, batch, state.to(subject.device), how.options) for state in states.unbind(1)]
    rows = {name: torch.stack([r[name] for r in read], 1) for name in read[0]}
    rows["chance"] = torch.tensor([1 / (1 + len(example.wrong)) for example in batch.examples])
    return rows | picture_rows(batch)


def _read(subject: Any, batch: Batch, states: Tensor, options: Options) -> dict[str, Tensor]:
    """One state of all image tokens, an example's logits alive at a time. NaN where an example has no such place."""
    places = _places(batch, options)
    found: list[dict[str, Tensor]] = []
    for row, example in enumerate(batch.examples):
        read = partial(_words, subject, options.words, _options(batch.tokenizer, example))
        measured = in_rows(read, subject.model, states[row])
        whole = {"ids": measured["ids"].int().cpu(), "probability": measured["probability"].cpu()}
        for name in ("entropy", "agreement", "named"):
            values = measured.get(name, torch.full_like(measured["entropy"], torch.nan)).cpu()
            whole |= {f"{name}|{place}": values[mask[row]].mean() for place, mask in places.items()}
        found.append(whole)
    return {name: torch.stack([f[name] for f in found]) for name in found[0]}


def _words(subject: Any, count: int, answers: list[int] | None, states: Tensor) -> dict[str, Tensor]:
    """What some image tokens [n, d] say; "agreement" and "named" where there are answers."""
    logits = metrics.logit_lens(states, subject.norm, subject.unembed).float()
    top = logits.softmax(-1).topk(count, -1)
    measured = {"entropy": metrics.entropy(logits), "ids": top.indices, "probability": top.values}
    if answers is None:
        return measured
    ids = torch.tensor(answers, device=logits.device)
    named = {"agreement": logits[:, ids].argmax(-1) == 0, "named": logits.argmax(-1) == ids[0]}
    return measured | {name: there.float() for name, there in named.items()}


def _places(batch: Batch, options: Options) -> dict[str, Tensor]:
    """Bool[b, image tokens] of every place, in the order of `take`."""
    none = torch.zeros_like(batch.where("image"))
    asked, other = (batch.marks.get(name, none) for name in (options.asked, options.other))
    masks = {"asked": asked, "other": other & ~asked, "rest": ~asked & ~other}
    return {name: take(mask.float(), batch, "patches") == 1 for name, mask in masks.items()}


def _options(tokenizer: Any, example: Any) -> list[int] | None:
    """Token ids of the answer and of the wrong answers; None where there are none or one is not a single token."""
    words = (example.answer, *example.wrong)
    if not example.wrong or not all(is_single_token(tokenizer, word) for word in words):
        return None
    return [ids_in_text(tokenizer, word)[0] for word in words]


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return (subject.n_layers + 1) * (9 + 2 * options.words * positions) + SIDE * SIDE


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: the logits of a few positions at a time."""
    return costs.logits(subject, batch * min(positions, 64), 3)


def _agreement(rows: Rows, how: How) -> pd.DataFrame | None:
    """measure ("agreement", "named") subset, the other places as controls, and "chance"."""
    frames = [frame.assign(subset=subset) for subset, part in rows.subsets("kind") for frame in _agreeing(part)]
    return pd.concat(frames, ignore_index=True) if frames else None


def _agreeing(rows: Rows) -> list[pd.DataFrame]:
    if np.isnan(rows["agreement|asked"]).all():
        return []
    groups, states = rows.examples["group"], {"state": np.arange(rows["agreement|asked"].shape[1])}
    there = ~np.isnan(rows["agreement|asked"][:, 0])
    frames = []
    for measure in ("agreement", "named"):
        for place, control in (("asked", ""), ("other", _PLACES["other"]), ("rest", _PLACES["rest"])):
            # Controls of the same examples, so that kinds of question without an asked patch do not shift them.
            values = np.where(there[:, None], rows[f"{measure}|{place}"], np.nan)
            frames.append(summarise(values, groups, states, "share").assign(measure=measure, control=control))
    chance = np.where(there, rows["chance"], np.nan)[:, None].repeat(len(states["state"]), 1)
    frames.append(summarise(chance, groups, states, "share").assign(measure="agreement", control="chance"))
    return [frame[frame["n"] > 0] for frame in frames]


def _entropy(rows: Rows, how: How) -> pd.DataFrame:
    groups, states = rows.examples["group"], {"state": np.arange(rows["entropy|rest"].shape[1])}
    frames = [summarise(rows[f"entropy|{p}"], groups, states, "nats").assign(place=name) for p, name in _PLACES.items()]
    return joined(frames)


def _grid(rows: Rows, how: How) -> pd.DataFrame:
    """The words of the first examples; rows and columns only where the model's own numbers tell them, else NaN."""
    chosen = first_of_groups(rows, how.options.shown)
    ids, values = rows["ids"][chosen].astype(int), rows["probability"][chosen]
    example, state, place, rank = (axis.ravel() for axis in np.indices(ids.shape))
    columns, cell = rows["grid"][chosen, 1][example], rows["cell"][chosen][example, place]
    columns = np.where(columns > 0, columns, np.nan)
    frame = pd.DataFrame({"example": rows.examples["id"].to_numpy()[chosen][example], "state": state, "place": place})
    frame = frame.assign(row=cell // columns, column=cell % columns, rank=rank + 1, value=values.ravel())
    frame = frame.assign(token=rows.words(ids).ravel(), unit="probability")
    return frame[np.isfinite(frame["value"])].reset_index(drop=True)


def _pictures(rows: Rows, how: How) -> pd.DataFrame:
    return picture_table(rows, first_of_groups(rows, how.options.shown))


def _unmapped(rows: Rows, how: How) -> pd.DataFrame | None:
    return unmapped(rows)


def _chosen(rows: Rows, how: How) -> pd.DataFrame | None:
    """The state of the second half that names the asked object best on half of the groups, measured on the others."""
    asked, other, groups = rows["agreement|asked"], rows["agreement|other"], rows.examples["group"].to_numpy()
    there = ~np.isnan(asked[:, 0])
    if len(np.unique(groups[there])) < 2:
        return None
    late = asked.shape[1] // 2
    half = [values[there] for values in (asked, other, rows["chance"])]
    state, measured = stats.chosen_on(half[0], groups[there], lambda some: late + some[:, late:].mean(0).argmax())
    here, elsewhere, chance = half[0][measured, state], half[1][measured, state], half[2][measured]
    gaps = {OVER_CHANCE: here - chance, OVER_OTHER: here - elsewhere}
    frames = [
        summarise(gap, groups[there][measured], {}, "share").assign(measure=measure, state=int(state), control="")
        for measure, gap in gaps.items()
    ]
    return joined(frames)


TABLES = {
    "agreement": (_agreement, ("measure", "subset")),
    "chosen": (_chosen, ("measure",)),
    "entropy": (_entropy, ("place",)),
}
RUN_TABLES = {
    "grid": (_grid, ("example", "state", "place", "row", "column", "rank", "value", "token", "unit")),
    "pictures": (_pictures, ("example", *ASKED, "png")),
    "unmapped": (_unmapped, ("why",)),
}


CLAIMS = (
    Statement(
        "patches name their object",
        "Image tokens decode to what they show: at the state of the second half that half of the groups choose, the "
        "lens at the object's patches names it more often than chance, and than the other objects' patches do.",
        *("MMNeuron, arXiv 2406.11193", 0.0, "above"),
    ),
)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of image tokens, of one condition's tables; nothing where no object is asked for."""
    chosen = tables.get("chosen")
    row, margin = (one_row(chosen, measure=measure) for measure in (OVER_CHANCE, OVER_OTHER))
    if row is None:
        return []
    note = f"state {row['state']}"
    return [judge(CLAIMS[0], row, margin=margin, control="the other objects' patches", note=note)]
