"""Direct logit attribution: which part writes the answer, and which words a head promotes

Every part that is added to the residual (embeddings, heads, biases, MLPs) is read through the final norm, held at the
scale that it has for the whole, and the unembedding: the sum over all parts and the final bias is the logit.

Tables: parts, heads, top, completeness, words (on prompts), ov and copying (from the weights alone), tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.example import is_single_token
from ...data.tokens import ids_in_text, labels
from ...probes.model import frozen_norms
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How, Rows
from ...probes.runs.results import observe as ride
from ..common import stats
from ..common.claims import Claim, Statement
from ..common.controls import HEADS, Head
from ..common.frames import summarise
from ..common.selection import at, at_random, halves
from ..common.tested import judged, nothing, number
from ._value_circuit import promoted

VERSION = 4
QUESTION = "Which heads and MLPs write the answer into the last residual, and which words does each head promote?"
PAPER = "direct logit attribution, arXiv 2211.00593; OV circuits, transformer-circuits.pub/2021/framework"
MEASURES = ("answer", "difference")
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


@dataclass(frozen=True)
class Options:
    """words: tokens kept for every head and prompt (0: none). prompts: strongest ones shown for every head.

    directions: singular directions of every head's OV circuit that are named (0: none). token: for `show`, the token
    that is asked about (" Paris"); by default the model's own answer.
    """

    words: int = 5
    prompts: int = 3
    directions: int = 3
    token: str = ""


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "At the last real position, each part of the residual is read by the answer's unembedding, and by the answer's "
        "minus the wrong answer's. The final norm is held at the scale that it has for the whole residual, so it is "
        "linear; a norm behind a layer's attention is held likewise. Logits are those before a soft cap where the "
        "model has one. The sum over parts and biases is the logit (table completeness). The control for the answer is "
        "the wrong answer of the same prompt. Heads are ranked on one half of the groups and measured on the other; "
        "beside each stand other heads of its layer, each turned to the side that it took on the first half, mean over "
        "20 draws. "
        "Words on prompts: the tokens whose logit a head raises most, against the mean over the vocabulary. Words of "
        "the OV circuit: W_V · W_O with both norms' gains folded in, by singular directions, read by the embeddings "
        "(what a head looks for) and by the unembeddings (what it promotes); copying: Σ Re λ / Σ |λ| over the "
        "eigenvalues of W_E · W_V · W_O · W_U, from −1 to 1."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """What the layer adds at the last real position; of the first layer also what enters it, of the last the end."""
    rows = torch.arange(len(batch.last), device=layer.resid_pre.device)
    last = batch.last.to(rows.device)
    kept = {"z": layer.z[rows, last], "mlp": layer.mlp_out[rows, last]}
    if layer.index == 0:
        kept["embedding"] = layer.resid_pre[rows, last]
    if layer.index == layer.subject.n_layers - 1:
        kept["final"] = layer.resid_post[rows, last]
    return kept


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "heads" [b, 2, layers, heads], "mlp", "attention bias" [b, 2, layers], "embedding", "final bias", "logit"
    [b, 2]: for the answer and for the difference; "word_ids", "word_logits" [b, layers, heads, words].
    """
    W_U = subject.W_U.float()
    answer, wrong = batch.answers.to(W_U.device), batch.wrong.to(W_U.device)
    b_U = torch.zeros(len(W_U), device=W_U.device) if subject.b_U is None else subject.b_U.float()
    directions = torch.stack([W_U[answer], W_U[answer] - W_U[wrong]], 1)
    bias = torch.stack([b_U[answer], b_U[answer] - b_U[wrong]], 1)
    found = attribute(subject, kept, directions, bias)
    return found | (_head_words(subject, kept, how.options.words) if how.options.words else {})


@torch.no_grad()
def attribute(subject: Any, kept: dict[str, Tensor], directions: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Every part's share in `directions` · norm(final) + bias. directions: [b, n, d]; bias: [b, n]."""
    kept = {name: tensor.to(directions.device) for name, tensor in kept.items()}
    final = kept["final"][:, 0]
    norm = frozen_norms.affine(subject.norm, final)
    read = norm.pull(directions) / norm.scale(final)[:, None]
    heads, biases = [], []
    for layer, z in enumerate(kept["z"].unbind(1)):
        written, rest = frozen_norms.written_by_heads(subject, layer, z)
        heads.append(torch.einsum("bhd,bnd->bnh", written, read))
        biases.append(torch.einsum("bd,bnd->bn", rest, read))
    return {
        "heads": torch.stack(heads, 2),
        "attention bias": torch.stack(biases, 2),
        "mlp": torch.einsum("bld,bnd->bnl", kept["mlp"].float(), read),
        "embedding": torch.einsum("bd,bnd->bn", kept["embedding"][:, 0].float(), read),
        "final bias": directions @ norm.bias + bias,
        "logit": torch.einsum("bd,bnd->bn", subject.norm(final).float(), directions) + bias,
    }


@torch.no_grad()
def _head_words(subject: Any, kept: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The tokens that each head's output raises most, one layer's logits alive at a time."""
    final = kept["final"][:, 0].to(subject.device)
    norm = frozen_norms.affine(subject.norm, final)
    W_U = subject.W_U.float()
    mean, scale = W_U.mean(0), norm.scale(final)
    ids, logits = [], []
    for layer, z in enumerate(kept["z"].unbind(1)):
        heads, _ = frozen_norms.written_by_heads(subject, layer, z.to(subject.device))
        seen = norm.centered(heads) * norm.gain / scale[:, None]
        top = [(one @ W_U.T - (one @ mean)[:, None]).topk(count, -1) for one in seen]
        ids.append(torch.stack([t.indices for t in top]).int())
        logits.append(torch.stack([t.values for t in top]))
    return {"word_ids": torch.stack(ids, 1), "word_logits": torch.stack(logits, 1)}


def weights(subject: Any, options: Options) -> dict[str, Tensor]:
    """What the OV circuits say, from the weights alone."""
    return promoted(subject, options.directions, options.words) if options.directions and options.words else {}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 2 * subject.n_layers * (subject.n_heads * (1 + options.words) + 2) + 6


def _measured(rows: Rows, name: str) -> list[tuple[str, str, np.ndarray]]:
    """(measure, control, values): the answer, the wrong answer as its control, the difference."""
    answer, difference = rows[name][:, 0], rows[name][:, 1]
    return [("answer", "", answer), ("answer", "wrong answer", answer - difference), ("difference", "", difference)]


def _parts(rows: Rows, how: How) -> pd.DataFrame:
    """By layer: all heads together with their biases, the MLP; embedding and final bias have no layer."""
    groups, frames = rows.examples["group"], []
    summed = {"attention": rows["heads"].sum(3) + rows["attention bias"], "MLP": rows["mlp"]}
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
    order = np.argsort(-np.abs(first).ravel(), kind="stable")[: min(TOP, first.size)]
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
    whole = rows["heads"].sum((2, 3)) + rows["attention bias"].sum(2) + rows["mlp"].sum(2)
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
    return pd.concat(frames, ignore_index=True)


def _copying(rows: Rows, how: How) -> pd.DataFrame | None:
    """Every head's copying score, from the weights alone."""
    copying = rows.weights.get("copying")
    if copying is None:
        return None
    layer, head = (axis.ravel() for axis in np.indices(copying.shape))
    return pd.DataFrame({"layer": layer, "head": head, "value": copying.ravel(), "unit": "copying score"})


# ---------------------------------------------------------------- claims


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
    if not stats.group_bootstrap(found.turned.sum((1, 2)), found.groups).lower > 0:
        return "the two halves of the groups do not agree on what heads write"
    return ""


def _late(found: _Strongest) -> pd.DataFrame:
    late = np.array([layer for layer, _ in found.heads]) >= found.first.shape[0] * LATE
    own = at(found.turned, found.heads)
    unit = "share of what the strongest add"
    return number("late", own[:, late].sum(1), found.groups, unit, denominators=own.sum(1))


def _few(found: _Strongest) -> list[pd.DataFrame]:
    own, random = (of(found.turned, found.heads).sum(1) for of in (at, at_random))
    given = {"denominators": found.turned.sum((1, 2))}
    unit = "share of what all heads add"
    margin = number("few", own - random, found.groups, unit, than=HEADS, **given)
    return [number("few", own, found.groups, unit, **given), margin]


def _copy(found: _Strongest, copying: np.ndarray | None) -> list[pd.DataFrame]:
    """The scores are the weights' and have no interval; what they are weighted by has."""
    raising = [head for head in found.heads if found.first[head] > 0]
    if copying is None or not raising:
        return [nothing("copy", "no OV circuits were asked for" if copying is None else "no head raises the answer")]
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


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of heads that write answers, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)


def show(subject: Any, batch: Batch, options: Options) -> dict[str, pd.DataFrame]:
    """One prompt: every part's share in the logit of `token` (default: the model's own answer), n = 1.

    parts: layer value part measure. heads: layer head value measure. UserError: a token that is not one.
    """
    if options.token and not is_single_token(batch.tokenizer, options.token):
        raise UserError(f"token {options.token!r} is not one token of {subject.name}: choose another")
    kept = ride(subject, batch, {"kept": (SimpleNamespace(observe=observe), How(options))})["kept"]
    own = subject.last_logits(batch).argmax(-1)
    asked = ids_in_text(batch.tokenizer, options.token) if options.token else []
    ids = torch.full_like(own, asked[0]) if asked else own
    W_U, b_U = subject.W_U.float(), subject.b_U
    bias = torch.zeros(len(ids), 1, device=W_U.device) if b_U is None else b_U.float()[ids][:, None]
    found = {n: v.cpu().numpy() for n, v in attribute(subject, kept, W_U[ids][:, None], bias).items()}
    measure = f"logit of {labels(batch.tokenizer, ids[:1])[0]!r}"
    return _shown(found, measure)


def _shown(found: dict[str, np.ndarray], measure: str) -> dict[str, pd.DataFrame]:
    heads = found["heads"][0, 0]
    layer, head = (axis.ravel() for axis in np.indices(heads.shape))
    shared = {"unit": "logits", "n": 1, "measure": measure, "control": "", "condition": "one prompt"}
    parts = {"attention": heads.sum(1) + found["attention bias"][0, 0], "MLP": found["mlp"][0, 0]}
    by_layer = [pd.DataFrame({"layer": range(len(v)), "value": v, "part": part}) for part, v in parts.items()]
    whole = [pd.DataFrame({"value": [found[p][0, 0]], "part": p}) for p in ("embedding", "final bias")]
    return {
        "parts": pd.concat([*by_layer, *whole], ignore_index=True).assign(**shared),
        "heads": pd.DataFrame({"layer": layer, "head": head, "value": heads.ravel()}).assign(**shared),
    }
