"""Learned lenses: the tuned lens and the Attention Lens against the logit lens

Tables: kl (every lens by state), attention (the lens of a layer's heads against plain unembeddings), bias, compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...probes.model import frozen_norms
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import lens_store
from ...probes.runs.activations import take
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.claims import Claim, Statement, judge, one_row
from ..common.frames import summarise
from ..common.thumbnails import first_of_groups
from . import _attention_lens, _tuned_lens
from ._learning import COARSE, Training, layers_of, learn, lens_names, open_lens

VERSION = 2
QUESTION = (
    "How much more of the model's answer is in a state, or in what a layer's heads write, than the logit lens reads?"
)
PAPER = "tuned lens, arXiv 2303.08112 (-style); Attention Lens, arXiv 2310.16270"
FIT_EXAMPLES = 0  # it learns from a corpus of its own
LENSES = ("logit lens", "tuned lens")
# How the sum of a layer's heads is read without learning anything.
PLAIN = ("direct effect", "final norm", "no norm")
LEARNED, HEAD_ALONE = "Attention Lens", "z · W_O · W_U"
# The numbers of the claims, rows of `compared`.
TUNED_RATIO, BIAS_RATIO = "tuned / logit lens, middle half", "marginal KL, tuned / logit lens, middle half"
BEST_GAP = f"{LEARNED} − best plain way of each example"


@dataclass(frozen=True)
class Options(Training):
    """lens: the name of learned lenses to use instead of learning any. measured: positions of an example that are
    read, behind the first, drawn once by its id; or "last", "all". words: tokens listed for each head at the last
    position, of the first `shown` examples.
    """

    lens: str = ""
    measured: str = "8"
    words: int = 50
    shown: int = 2


class Learned(NamedTuple):
    """lens: the name of the lenses; the others: how they were trained, as in `Training`, layers written out."""

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


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Lenses {learned.lens} were learned from {learned.passages or 'all'} examples of {learned.corpus}, none of "
        "them, and none of their documents, among those measured here. Tuned lens: per state an affine translator to "
        f"the last state, from {'ridge regression' if learned.start == 'ridge' else 'the identity'} by "
        f"{learned.tuned_steps} steps on KL to the model's output. Attention Lens: per head a map from its output "
        f"(d_head) to the vocabulary, from W_U · W_O with the final norm's gain and mean scale folded in, by "
        f"{learned.steps} steps on KL to the sum over the layer's heads. Measured: KL of the model's output to each "
        f"lens, mean over {options.measured} positions of each example. Controls: the constant that says the corpus's "
        "mean output at every position; for the heads the plain unembedding of their sum, with the final norm and "
        "without."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The lenses' name, how they were trained, which layers have one; learned here where they are not there yet."""
    training = Training(**{field.name: getattr(options, field.name) for field in fields(Training)})
    name = options.lens or learn(subject, training)
    _, record = lens_store.read(name, subject, ["frequent"])
    layers = ",".join(map(str, lens_names(record, "attention"))) or "none"
    states = "all" if lens_names(record, "tuned") else "none"
    return Learned(**{**record["training"], "lens": name, "layers": layers, "states": states})


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """States at the measured positions [b, n, d]; of layers with an Attention Lens also z and the heads' sum."""
    kept = {"resid": take(layer.resid_pre, batch, how.options.measured)}
    kept["post"] = take(layer.resid_post, batch, how.options.measured)
    if layer.index in layers_of(layer.subject.n_layers, how.learned.layers):
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
    states = [places.pick(x).to(subject.device) for x in (*kept["resid"].unbind(1), kept["post"][:, -1])]
    final = _unembedded(subject, states[-1]).log_softmax(-1)
    constant = shared["marginal"].to(subject.device).clamp_min(1e-30).log().expand_as(final)
    rows = {"constant|kl": places.mean(metrics.kl_divergence(final, constant))}
    for lens in LENSES[: 1 if how.learned.states == "none" else 2]:
        read = [
            _read(_state_logits(subject, lens, i, x, how.learned.lens), final, shared) for i, x in enumerate(states)
        ]
        rows |= {f"{lens}|{name}": torch.stack([places.mean(r[name]) for r in read], 1) for name in read[0]}
    for way in (LEARNED, *PLAIN) if "z" in kept else ():
        kl = []
        for at, layer in enumerate(layers_of(subject.n_layers, how.learned.layers)):
            z, written = (places.pick(kept[name][:, at]).to(subject.device) for name in ("z", "attn_out"))
            logits = _head_logits(subject, way, layer, z, written, states[-1], how.learned.lens)
            kl.append(places.mean(metrics.kl_divergence(final, logits)))
        rows[f"{way}|heads"] = torch.stack(kl, 1)
    return rows | ({} if last_z is None else _said_by_heads(subject, last_z, how))


def _said_by_heads(subject: Any, z: Tensor, how: How) -> dict[str, Tensor]:
    """The likeliest tokens of every head alone, z [b, layers, h, d_head]: by its learned map, and by z · W_O · W_U."""
    layers, said = layers_of(subject.n_layers, how.learned.layers), {}
    for at, layer in enumerate(layers):
        mine = z[:, at].to(subject.device).float()
        weights = {k: w.to(mine.device) for k, w in open_lens(subject, how.learned.lens, "attention", layer).items()}
        W_O = subject.W_O(layer).detach().float()
        for head in range(mine.shape[1]):
            plain = mine[:, head] @ W_O[head] @ subject.W_U.float().T
            for way, logits in ((LEARNED, _attention_lens.head_logits(weights, mine, head)), (HEAD_ALONE, plain)):
                top = logits.topk(min(how.options.words, logits.shape[-1]), -1)
                said.setdefault(f"{way}|ids", []).append(top.indices.int().cpu())
                said.setdefault(f"{way}|logits", []).append(top.values.cpu())
    return {name: torch.stack(x, 1).unflatten(1, (len(layers), -1)) for name, x in said.items()}


class Places(NamedTuple):
    """there: Bool[b, n], the positions that an example has."""

    there: Tensor

    def pick(self, tensor: Tensor) -> Tensor:
        """[b, n, ...] -> [tokens, ...]."""
        return tensor[self.there]

    def mean(self, values: Tensor) -> Tensor:
        """[tokens, ...] -> mean over the positions of every example, [b, ...]."""
        spread = values.new_zeros(*self.there.shape, *values.shape[1:]).cpu()
        spread[self.there] = values.cpu()
        return spread.sum(1) / self.there.sum(1).reshape(-1, *[1] * (values.ndim - 1))


def _unembedded(subject: Any, states: Tensor, norm: bool = True) -> Tensor:
    return metrics.logit_lens(states, subject.norm if norm else None, subject.unembed).float()


def _state_logits(subject: Any, lens: str, state: int, x: Tensor, learned: str) -> Tensor:
    """A state through a lens; the last one is the model's own output in both."""
    if lens == LENSES[0] or state == subject.n_layers:
        return _unembedded(subject, x)
    weights = open_lens(subject, learned, "tuned", state)
    return _tuned_lens.logits(subject, {name: w.to(x.device) for name, w in weights.items()}, x).float()


def _read(logits: Tensor, final: Tensor, shared: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "kl": metrics.kl_divergence(final, logits),
        "top1": (logits.argmax(-1) == final.argmax(-1)).float(),
        "marginal": logits.softmax(-1)[:, shared["frequent"].to(logits.device)],
    }


def _head_logits(subject: Any, way: str, layer: int, z: Tensor, written: Tensor, final: Tensor, learned: str) -> Tensor:
    """What the heads of a layer say together. written: what attention adds to the residual."""
    if way == LEARNED:
        weights = open_lens(subject, learned, "attention", layer)
        return _attention_lens.logits({name: w.to(z.device) for name, w in weights.items()}, z)
    if way == "direct effect":
        norm = frozen_norms.affine(subject.norm, final)
        logits = (norm.centered(written.float()) * norm.gain / norm.scale(final) + norm.bias) @ subject.W_U.float().T
        return logits if subject.b_U is None else logits + subject.b_U.float()
    return _unembedded(subject, written, norm=way == "final norm")


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    by_head = 4 * options.words * subject.n_heads * len(layers_of(subject.n_layers, options.layers))
    return 1 + len(LENSES) * (subject.n_layers + 1) * (2 + COARSE) + (1 + len(PLAIN)) * subject.n_layers + by_head


def _lenses(rows: Rows) -> list[str]:
    return [lens for lens in LENSES if f"{lens}|kl" in rows.values]


def _by_state(rows: Rows, how: How) -> pd.DataFrame:
    """Every lens by state; the Attention Lens of layer l stands at state l + 1."""
    groups, frames = rows.examples["group"], []
    for measure, unit in (("kl", "nats"), ("top1", "share")):
        for lens in _lenses(rows):
            values = rows[f"{lens}|{measure}"]
            frame = summarise(values, groups, {"state": np.arange(values.shape[1])}, unit)
            frames.append(frame.assign(lens=lens, measure=measure, control=""))
    layers = _layers(rows, how)
    if layers:
        frame = summarise(rows[f"{LEARNED}|heads"], groups, {"state": [layer + 1 for layer in layers]}, "nats")
        frames.append(frame.assign(lens=LEARNED, measure="kl", control=""))
    states = np.arange(rows["logit lens|kl"].shape[1])
    constant = np.repeat(rows["constant|kl"][:, None], len(states), 1)
    frame = summarise(constant, groups, {"state": states}, "nats")
    frames.append(frame.assign(lens="constant", measure="kl", control="the corpus's mean output"))
    return pd.concat(frames, ignore_index=True)


def _layers(rows: Rows, how: How) -> list[int]:
    """`fit` wrote them out as numbers."""
    return [int(layer) for layer in how.learned.layers.split(",")] if f"{LEARNED}|heads" in rows.values else []


def _heads(rows: Rows, how: How) -> pd.DataFrame | None:
    layers = _layers(rows, how)
    frames = []
    for way in (LEARNED, *PLAIN) if layers else ():
        frame = summarise(rows[f"{way}|heads"], rows.examples["group"], {"layer": layers}, "nats")
        frames.append(frame.assign(lens=way, control="" if way == LEARNED else "plain unembedding"))
    return pd.concat(frames, ignore_index=True) if frames else None


def _head_words(rows: Rows, how: How) -> pd.DataFrame | None:
    """The tokens that each head says at the last position of the first examples."""
    chosen, layers, frames = first_of_groups(rows, how.options.shown), np.array(_layers(rows, how)), []
    for way in (LEARNED, HEAD_ALONE) if len(layers) else ():
        ids, values = rows[f"{way}|ids"][chosen].astype(int), rows[f"{way}|logits"][chosen]
        example, layer, head, rank = (axis.ravel() for axis in np.indices(ids.shape))
        names = rows.examples["id"].to_numpy()[chosen][example]
        frame = pd.DataFrame({"example": names, "layer": layers[layer], "head": head, "rank": rank + 1})
        frame = frame.assign(token=rows.words(ids).ravel(), value=values.ravel(), unit="logits")
        frames.append(frame.assign(lens=way, control="" if way == LEARNED else HEAD_ALONE))
    return pd.concat(frames, ignore_index=True) if frames else None


def _bias(rows: Rows, how: How) -> pd.DataFrame | None:
    """KL of the model's mean output to the lens's mean output, over the corpus's frequent tokens and one for all
    others.

    Lumping tokens makes it a lower bound of the KL over the whole vocabulary.
    """
    groups = rows.examples["group"]
    model = rows["logit lens|marginal"][:, -1]
    frames = []
    for lens in _lenses(rows):
        marginal = rows[f"{lens}|marginal"]
        both = np.stack([np.broadcast_to(model[:, None], marginal.shape), marginal], 2)
        value, lower, upper = stats.bootstrap_statistic(both, groups, _marginal_kl)
        frame = pd.DataFrame({"state": range(marginal.shape[1]), "value": value, "lower": lower, "upper": upper})
        frames.append(frame.assign(n=len(model), n_groups=groups.nunique(), unit="nats", lens=lens, control=""))
    return pd.concat(frames, ignore_index=True) if frames else None


def _marginal_kl(means: np.ndarray) -> np.ndarray:
    """[states, 2, tokens], the model's and the lens's mean probabilities -> [states]."""
    whole = np.concatenate([means, np.clip(1 - means.sum(-1, keepdims=True), 0, None)], -1)
    p, q = np.maximum(whole, 1e-12).swapaxes(0, 1)
    return (p * np.log(p / q)).sum(-1)


def _compared(rows: Rows, how: How) -> pd.DataFrame | None:
    """The tuned lens's KL as a ratio to the logit lens's over the middle half of the states, and of every layer's
    Attention Lens the paired difference to each plain unembedding and to the constant."""
    groups, frames = rows.examples["group"], []
    if "tuned lens|kl" in rows.values:
        middle = _middle(rows["logit lens|kl"].shape[1] - 1)
        tuned, plain = (rows[f"{lens}|kl"][:, middle].mean(1) for lens in ("tuned lens", "logit lens"))
        frame = summarise(tuned, groups, {}, "ratio", denominators=plain)
        frames.append(frame.assign(measure=TUNED_RATIO, control=""))
        frames.append(_bias_ratio(rows, middle).assign(measure=BIAS_RATIO, control=""))
        frame = summarise(tuned, groups, {}, "ratio", denominators=rows["constant|kl"])
        frames.append(frame.assign(measure="tuned lens / constant, middle half", control=""))
    layers = _layers(rows, how)
    for way in (*PLAIN, "constant") if layers else ():
        other = rows[f"{way}|heads"] if way in PLAIN else np.repeat(rows["constant|kl"][:, None], len(layers), 1)
        frame = summarise(rows[f"{LEARNED}|heads"] - other, groups, {"layer": layers}, "nats")
        frames.append(frame.assign(measure=f"{LEARNED} − {way}", control=""))
    if layers:
        best = np.min([rows[f"{way}|heads"] for way in PLAIN], 0)
        frame = summarise((rows[f"{LEARNED}|heads"] - best).mean(1), groups, {}, "nats")
        frames.append(frame.assign(measure=BEST_GAP, control=""))
    return pd.concat(frames, ignore_index=True) if frames else None


def _bias_ratio(rows: Rows, middle: slice) -> pd.DataFrame:
    """The tuned lens's marginal KL as a share of the logit lens's, both meaned over the middle half of the states."""
    model = rows["logit lens|marginal"][:, -1]
    read = [rows[f"{lens}|marginal"][:, middle] for lens in ("tuned lens", "logit lens")]
    both = np.stack([np.stack([np.broadcast_to(model[:, None], one.shape), one], 2) for one in read], 1)
    groups = rows.examples["group"]

    def ratio(means: np.ndarray) -> np.ndarray:
        """[2 lenses, states, 2, tokens] -> []."""
        tuned, plain = (_marginal_kl(one).mean() for one in means)
        return tuned / plain

    estimate = {name: float(x) for name, x in stats.bootstrap_statistic(both, groups, ratio)._asdict().items()}
    return pd.DataFrame([estimate | {"n": len(model), "n_groups": groups.nunique(), "unit": "ratio"}])


def _middle(n_layers: int) -> slice:
    """The middle half of the states that a layer reads."""
    return slice(n_layers // 4, n_layers - n_layers // 4)


TABLES = {
    "kl": (_by_state, ("lens", "measure")),
    "heads": (_heads, ("lens",)),
    "bias": (_bias, ("lens",)),
    "compared": (_compared, ("measure",)),
    "head_words": (_head_words, ("example", "rank", "token", "lens")),
}

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
