"""Direct logit attribution: which part writes the answer, and which words a head promotes

Every part that is added to the residual (embeddings, heads, biases, MLPs) is read through the final norm, held at the
scale that it has for the whole, and the unembedding: the sum over all parts and the final bias is the logit.

Tables: parts, heads, top, completeness, words (on prompts), ov and copying (from the weights alone), tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.example import is_single_token
from ...data.tokens import ids_in_text, labels
from ...probes.model.head import word_directions
from ...probes.observe.gates import GateError
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ...probes.runs.results import observe as ride
from ..common.claims import Claim
from ..common.tested import judged
from ._attribution import attribute, head_words
from ._attribution_findings import findings
from ._attribution_tables import CLAIMS, RUN_TABLES, TABLES
from ._value_circuit import promoted

__all__ = ["CLAIMS", "RUN_TABLES", "TABLES", "claims", "findings"]

VERSION = 4
QUESTION = "Which heads and MLPs write the answer into the last residual, and which words does each head promote?"
PAPER = "direct logit attribution, arXiv 2211.00593; OV circuits, transformer-circuits.pub/2021/framework"


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


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """What the layer adds at the last real position; of the first layer also what enters it, of the last the end.

    In hybrids a mixer in the place of attention adds "mixer" as a whole.
    """
    rows = torch.arange(len(batch.last), device=layer.resid_pre.device)
    last = batch.last.to(rows.device)
    kept = {"z": layer.z[rows, last] if layer.attends else None, "mlp": layer.mlp_out[rows, last]}
    if len(layer.stack.attending) < layer.stack.n_layers:
        kept["mixer"] = None if layer.attends else layer.attn_out[rows, last]
    if layer.index == 0:
        kept["embedding"] = layer.resid_pre[rows, last]
    if layer.index == layer.subject.n_layers - 1:
        kept["final"] = layer.resid_post[rows, last]
    return kept


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "heads" [b, 2, layers, heads], "mlp", "attention bias" [b, 2, layers], "embedding", "final bias", "logit"
    [b, 2]: for the answer and for the difference; "word_ids", "word_logits" [b, layers, heads, words]. Where mixers
    stand in the place of attention also "mixer" [b, 2, layers].
    """
    answer, wrong = (word_directions(subject.model, ids) for ids in (batch.answers, batch.wrong))
    b_answer, b_wrong = (_word_bias(subject, ids) for ids in (batch.answers, batch.wrong))
    directions = torch.stack([answer, answer - wrong], 1)
    bias = torch.stack([b_answer, b_answer - b_wrong], 1)
    found = attribute(subject, kept, directions, bias)
    return found | (head_words(subject, kept, how.options.words) if how.options.words else {})


def _word_bias(subject: Any, ids: Tensor) -> Tensor:
    """The head's bias of some words, float32; 0 where it has none."""
    return torch.zeros(len(ids), device=subject.device) if subject.b_U is None else subject.b_U.float()[ids]


def weights(subject: Any, options: Options) -> dict[str, Tensor]:
    """What the OV circuits say, from the weights alone; nothing where a gate or a norm makes them no circuits."""
    if not (options.directions and options.words):
        return {}
    try:
        return promoted(subject, options.directions, options.words)
    except GateError:
        return {}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 2 * subject.n_layers * (subject.n_heads * (1 + options.words) + 2) + 6


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: the unembedding in float32, and what all heads of a layer say of every word."""
    return costs.wide_head(subject) + (costs.logits(subject, batch * subject.n_heads, 4) if options.words else 0)


# ---------------------------------------------------------------- claims


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
    directions, bias = word_directions(subject.model, ids)[:, None], _word_bias(subject, ids)[:, None]
    found = {n: v.cpu().numpy() for n, v in attribute(subject, kept, directions, bias).items()}
    measure = f"logit of {labels(batch.tokenizer, ids[:1])[0]!r}"
    return _shown(found, measure)


def _shown(found: dict[str, np.ndarray], measure: str) -> dict[str, pd.DataFrame]:
    heads = found["heads"][0, 0]
    layer, head = (axis.ravel() for axis in np.indices(heads.shape))
    shared = {"unit": "logits", "n": 1, "measure": measure, "control": "", "condition": "one prompt"}
    parts = {"attention": heads.sum(1) + found["attention bias"][0, 0], "MLP": found["mlp"][0, 0]}
    parts |= {"mixer": found["mixer"][0, 0]} if "mixer" in found else {}
    by_layer = [pd.DataFrame({"layer": range(len(v)), "value": v, "part": part}) for part, v in parts.items()]
    whole = [pd.DataFrame({"value": [found[p][0, 0]], "part": p}) for p in ("embedding", "final bias")]
    return {
        "parts": pd.concat([*by_layer, *whole], ignore_index=True).assign(**shared),
        "heads": pd.DataFrame({"layer": layer, "head": head, "value": heads.ravel()}).assign(**shared),
    }
