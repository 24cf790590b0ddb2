"""Learned lenses: the tuned lens and the Attention Lens against the logit lens

Tables: kl (every lens by state), attention (the lens of a layer's heads against plain unembeddings), bias, compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ...probes.model.head import in_rows
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs, lens_store
from ...probes.runs.activations import take
from ...probes.runs.results import How
from .. import metrics
from ..common.claims import Claim, Statement, judge, one_row
from ._learned_findings import findings
from ._learned_methods import methods
from ._learned_tables import BEST_GAP, BIAS_RATIO, LEARNED, LENSES, PLAIN, TABLES, TUNED_RATIO
from ._learning import COARSE, Training, layers_of, learn, lens_names
from ._lens_logits import Places, head_logits, read_lens, said_by_heads, state_logits, unembedded
from ._lens_words import fitting
from ._published_lens import is_published, load_tuned_lens

__all__ = ["TABLES", "claims", "findings", "methods"]

VERSION = 2
QUESTION = (
    "How much more of the model's answer is in a state, or in what a layer's heads write, than the logit lens reads?"
)
PAPER = "tuned lens, arXiv 2303.08112 (-style); Attention Lens, arXiv 2310.16270"
FIT_EXAMPLES = 0  # it learns from a corpus of its own


@dataclass(frozen=True)
class Options(Training):
    """lens: the name of learned lenses to use instead of learning any, or a directory with a published tuned lens
    (config.json, params.safetensors). measured: positions of an example that are
    read, behind the first, drawn once by its id; or "last", "all". words: tokens listed for each head at the last
    position, of the first `shown` examples.
    """

    lens: str = ""
    measured: str = "8"
    words: int = 50
    shown: int = 2


class Learned(NamedTuple):
    """lens: the name of the lenses; the others: how they were trained, as in `Training`, layers written out. words:
    so many have maps of their own in the Attention Lens, 0 for all. published: the model that a published lens names.
    """

    lens: str = ""
    corpus: str = "passages:split=train"
    passages: int = 96
    layers: str = "none"
    positions: str = "all"
    steps: int = 60
    batch: int = 512
    rate: float = 3e-3
    states: str = "all"
    tuned_positions: str = "64"
    start: str = "ridge"
    tuned_steps: int = 4
    tuned_batch: int = 128
    tuned_rate: float = 1e-3
    seed: int = 0
    words: int = 0
    published: str = ""


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The lenses' name, how they were trained, which layers have one; learned here where they are not there yet."""
    training = Training(**{field.name: getattr(options, field.name) for field in fields(Training)})
    name = options.lens or learn(subject, training)
    name = load_tuned_lens(subject, name, options.corpus, options.passages) if is_published(name) else name
    _, record = lens_store.read(name, subject, ["frequent"])
    layers = ",".join(map(str, lens_names(record, "attention"))) or "none"
    states = "all" if lens_names(record, "tuned") else "none"
    more = {"words": record.get("words", 0), "published": record.get("published", {}).get("of", "")}
    return Learned(**{**record["training"], "lens": name, "layers": layers, "states": states} | more)


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """States at the measured positions [b, n, d]; of layers with an Attention Lens also z and the heads' sum."""
    kept = {"resid": take(layer.resid_pre, batch, how.options.measured)}
    kept["post"] = take(layer.resid_post, batch, how.options.measured)
    if layer.index in layers_of(layer.stack.attending, how.learned.layers):
        kept["z"] = take(layer.z, batch, how.options.measured)
        kept["attn_out"] = take(layer.attn_out, batch, how.options.measured)
        kept["last_z"] = take(layer.z, batch, "last")
    return kept


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "<lens>|kl", "<lens>|top1" and "<lens>|marginal" by state, "<way>|heads" by layer, "constant|kl";
    "<way>|ids" and "<way>|logits" [b, layers, h, words], what each head says at the last position.
    """
    last_z = kept.pop("last_z", None)
    shared, record = lens_store.read(how.learned.lens, subject, ("marginal", "frequent"))
    lens_store.require_held_out(record, batch.example_ids, [example.group for example in batch.examples])
    if how.options.measured == "last":
        kept = {name: tensor.unsqueeze(2) for name, tensor in kept.items()}
    places = Places(~kept["resid"][:, 0, :, 0].isnan())
    names = [name for name in ("z", "attn_out") if name in kept]
    states = torch.cat([kept["resid"], kept["post"][:, -1:]], 1)
    parts = [places.pick(tensor.transpose(1, 2)) for tensor in (states, *(kept[name] for name in names))]
    read = in_rows(partial(_readings, subject, how, shared), subject.model, *parts)
    rows = {name: places.mean(values) for name, values in read.items()}
    return rows | ({} if last_z is None else said_by_heads(subject, last_z, how))


def _readings(subject: Any, how: How, shared: dict[str, Tensor], *kept: Tensor) -> dict[str, Tensor]:
    """The rows of some tokens: kept [tokens, states or layers, ...], the states and, where there are any, z and what
    the heads write.
    """
    resid, *of_heads = (tensor.to(subject.device).unbind(1) for tensor in kept)
    final = unembedded(subject, resid[-1]).log_softmax(-1)
    constant = shared["marginal"].to(subject.device).clamp_min(1e-30).log().expand_as(final)
    rows = {"constant|kl": metrics.kl_divergence(final, constant)}
    for lens in LENSES[: 1 if how.learned.states == "none" else 2]:
        logits = (state_logits(subject, lens, i, x, how.learned.lens) for i, x in enumerate(resid))
        read = [read_lens(one, final, shared) for one in logits]
        rows |= {f"{lens}|{name}": torch.stack([r[name] for r in read], 1) for name in read[0]}
    layers = layers_of(subject.decoder.attending, how.learned.layers)
    for way in (LEARNED, *PLAIN) if of_heads else ():
        kl = []
        for layer, z, written in zip(layers, *of_heads, strict=True):
            logits = head_logits(subject, way, layer, z, written, resid[-1], how.learned.lens)
            kl.append(metrics.kl_divergence(final, logits))
        rows[f"{way}|heads"] = torch.stack(kl, 1)
    return rows


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    by_head = 4 * options.words * subject.n_heads * len(layers_of(subject.decoder.attending, options.layers))
    return 1 + len(LENSES) * (subject.n_layers + 1) * (2 + COARSE) + (1 + len(PLAIN)) * subject.n_layers + by_head


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: states and heads at the measured positions with their logits, or, before any
    batch, what learning holds: the lenses learned so far, one with its gradient, both of Adam's means and a
    deviation, a step's logits, and the positions that it is learned from.
    """
    kept = batch * int(options.measured if options.measured.isdigit() else positions)
    measured = 4 * kept * (2 * subject.n_layers + 4) * subject.d_model + costs.logits(subject, kept, 8)
    return measured if options.lens else max(measured, _learning(subject, positions, options))


def _learning(subject: Any, positions: int, options: Options) -> int:
    layers = layers_of(subject.decoder.attending, options.layers)
    one = _attention_lens(subject, layers)
    each = positions if options.positions == "all" else int(options.positions) if options.positions.isdigit() else 1
    corpus = 4 * (options.passages or 1000) * each * subject.d_model
    steps = (
        6 * 4 * options.batch * _words(subject, layers) * bool(layers),
        costs.logits(subject, options.tuned_batch, 6),
    )
    return (len(layers) + 5) * one * bool(layers) + max(steps) + 3 * corpus


def disk(subject: Any, options: Options) -> int:
    """Bytes of the lenses in the cache: a map of each state to the last, and of each head to the vocabulary."""
    if options.lens:
        return 0
    states = subject.n_layers * subject.d_model * (subject.d_model + 1) if options.states == "all" else 0
    layers = layers_of(subject.decoder.attending, options.layers)
    return 4 * states + len(layers) * _attention_lens(subject, layers)


def _attention_lens(subject: Any, layers: Sequence[int]) -> int:
    """Bytes of one layer's maps from heads to words."""
    return 4 * subject.n_heads * subject.d_head * _words(subject, layers)


def _words(subject: Any, layers: Sequence[int]) -> int:
    """How many words have maps of their own."""
    return fitting(subject, list(layers)) or costs.vocabulary(subject)


CLAIMS = (
    Statement(
        "tuned lens is closer",
        "The tuned lens predicts the output better: KL at most 0.6 times the logit lens's over the middle half.",
        *("arXiv 2303.08112", 0.6, "below"),
    ),
    Statement(
        "learned heads are closer",
        "Learned per-head lenses beat the plain unembedding of the heads' sum in KL, however the norm is taken (mean "
        "over layers, against the best plain way of each example).",
        *("arXiv 2310.16270", 0.0, "below"),
    ),
    Statement(
        "tuned lens is hardly biased",
        "The logit lens is biased, the tuned lens hardly: in the middle half its marginal KL is at most a tenth.",
        *("arXiv 2303.08112", 0.1, "below"),
    ),
)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of learned lenses, of one condition's tables; of those that were learned."""
    rows = [one_row(tables.get("compared"), measure=m) for m in (TUNED_RATIO, BEST_GAP, BIAS_RATIO)]
    return [judge(s, row, note="held-out text") for s, row in zip(CLAIMS, rows, strict=True) if row is not None]
