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

from ..probes import learned, linear
from ..probes.batch import Batch
from ..probes.cache import take
from ..probes.rows import Rows
from ..probes.trace import Layer
from . import attention_lens, metrics, stats, tuned_lens
from .claims import Claim, verdict
from .frames import order_columns, summarise
from .learning import COARSE, Training, layers_of, learn, lens_names, open_lens

VERSION = 1
QUESTION = (
    "How much more of the model's answer is in a state, or in what a layer's heads write, than the logit lens reads?"
)
PAPER = "tuned lens, arXiv 2303.08112 (-style); Attention Lens, arXiv 2310.16270"
FIT_EXAMPLES = 0  # it learns from a corpus of its own
LENSES = ("logit lens", "tuned lens")
# How the sum of a layer's heads is read without learning anything.
PLAIN = ("direct effect", "final norm", "no norm")
LEARNED = "Attention Lens"


@dataclass(frozen=True)
class Options(Training):
    """lens: the name of learned lenses to use instead of learning any. measured: positions of an example that are
    read, behind the first, drawn once by its id; or "last", "all".
    """

    lens: str = ""
    measured: str = "8"


def methods(options: Options, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Lenses {options.lens} were learned from {options.passages or 'all'} examples of {options.corpus}, none of "
        "them, and none of their documents, among those measured here. Tuned lens: per state an affine translator to "
        f"the last state, from {'ridge regression' if options.start == 'ridge' else 'the identity'} by "
        f"{options.tuned_steps} steps on KL to the model's output. Attention Lens: per head a map from its output "
        f"(d_head) to the vocabulary, from W_U · W_O with the final norm's gain and mean scale folded in, by "
        f"{options.steps} steps on KL to the sum over the layer's heads. Measured: KL of the model's output to each "
        f"lens, mean over {options.measured} positions of each example. Controls: the constant that says the corpus's "
        "mean output at every position; for the heads the plain unembedding of their sum, with the final norm and "
        "without."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> dict[str, Any]:
    """The lenses' name, how they were trained, which layers have one; learned here where they are not there yet."""
    training = Training(**{field.name: getattr(options, field.name) for field in fields(Training)})
    name = options.lens or learn(subject, training)
    _, record = learned.read(name, subject, ["frequent"])
    layers = ",".join(map(str, lens_names(record, "attention"))) or "none"
    states = "all" if lens_names(record, "tuned") else "none"
    return {**record["training"], "lens": name, "layers": layers, "states": states}


def layer_rows(layer: Layer, batch: Batch, options: Options) -> dict[str, Tensor]:
    """States at the measured positions [b, n, d]; of layers with an Attention Lens also z and the heads' sum."""
    kept = {"resid": take(layer.resid_pre, batch, options.measured)}
    kept["post"] = take(layer.resid_post, batch, options.measured)
    if layer.index in layers_of(layer.subject.n_layers, options.layers):
        kept["z"] = take(layer.z, batch, options.measured)
        kept["attn_out"] = take(layer.attn_out, batch, options.measured)
    return kept


def finish(subject: Any, batch: Batch, kept: dict[str, Tensor], options: Options) -> dict[str, Tensor]:
    """Rows: "<lens>|kl", "<lens>|top1" and "<lens>|marginal" by state, "<way>|heads" by layer, "constant|kl"."""
    shared, record = learned.read(options.lens, subject, ("marginal", "frequent"))
    learned.require_held_out(record, batch.example_ids, [example.group for example in batch.examples])
    if options.measured == "last":
        kept = {name: tensor.unsqueeze(2) for name, tensor in kept.items()}
    places = Places(~kept["resid"][:, 0, :, 0].isnan())
    states = [places.pick(x).to(subject.device) for x in (*kept["resid"].unbind(1), kept["post"][:, -1])]
    final = _unembedded(subject, states[-1]).log_softmax(-1)
    constant = shared["marginal"].to(subject.device).clamp_min(1e-30).log().expand_as(final)
    rows = {"constant|kl": places.mean(metrics.kl_divergence(final, constant))}
    for lens in LENSES[: 1 if options.states == "none" else 2]:
        read = [_read(_state_logits(subject, lens, i, x, options), final, shared) for i, x in enumerate(states)]
        rows |= {f"{lens}|{name}": torch.stack([places.mean(r[name]) for r in read], 1) for name in read[0]}
    for way in (LEARNED, *PLAIN) if "z" in kept else ():
        kl = []
        for at, layer in enumerate(layers_of(subject.n_layers, options.layers)):
            z, written = (places.pick(kept[name][:, at]).to(subject.device) for name in ("z", "attn_out"))
            logits = _head_logits(subject, way, layer, z, written, states[-1], options)
            kl.append(places.mean(metrics.kl_divergence(final, logits)))
        rows[f"{way}|heads"] = torch.stack(kl, 1)
    return rows


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


def _state_logits(subject: Any, lens: str, state: int, x: Tensor, options: Options) -> Tensor:
    """A state through a lens; the last one is the model's own output in both."""
    if lens == LENSES[0] or state == subject.n_layers:
        return _unembedded(subject, x)
    weights = open_lens(subject, options.lens, "tuned", state)
    return tuned_lens.logits(subject, {name: w.to(x.device) for name, w in weights.items()}, x).float()


def _read(logits: Tensor, final: Tensor, shared: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "kl": metrics.kl_divergence(final, logits),
        "top1": (logits.argmax(-1) == final.argmax(-1)).float(),
        "marginal": logits.softmax(-1)[:, shared["frequent"].to(logits.device)],
    }


def _head_logits(
    subject: Any, way: str, layer: int, z: Tensor, written: Tensor, final: Tensor, options: Options
) -> Tensor:
    """What the heads of a layer say together. written: what attention adds to the residual."""
    if way == LEARNED:
        weights = open_lens(subject, options.lens, "attention", layer)
        return attention_lens.logits({name: w.to(z.device) for name, w in weights.items()}, z)
    if way == "direct effect":
        norm = linear.affine(subject.norm, final)
        logits = (norm.centered(written.float()) * norm.gain / norm.scale(final) + norm.bias) @ subject.W_U.float().T
        return logits if subject.b_U is None else logits + subject.b_U.float()
    return _unembedded(subject, written, norm=way == "final norm")


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 1 + len(LENSES) * (subject.n_layers + 1) * (2 + COARSE) + (1 + len(PLAIN)) * subject.n_layers


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """kl: condition control state value … lens measure ("kl", "top1"); the Attention Lens of layer l stands at state
    l + 1. heads: condition control layer … lens. compared: condition … layer measure, the ratios and differences of
    the claims. bias: condition state … lens.
    """
    makers = {"kl": _by_state, "heads": _heads, "bias": _bias, "compared": _compared}
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in makers}
    for condition, mine in rows.conditions():
        for name, make in makers.items():
            parts[name] += [frame.assign(condition=condition) for frame in make(mine, options)]
    return {name: order_columns(pd.concat(f, ignore_index=True)) for name, f in parts.items() if f}


def _lenses(rows: Rows) -> list[str]:
    return [lens for lens in LENSES if f"{lens}|kl" in rows.values]


def _by_state(rows: Rows, options: Options) -> list[pd.DataFrame]:
    groups, frames = rows.examples["group"], []
    for measure, unit in (("kl", "nats"), ("top1", "share")):
        for lens in _lenses(rows):
            values = rows[f"{lens}|{measure}"]
            frame = summarise(values, groups, {"state": np.arange(values.shape[1])}, unit)
            frames.append(frame.assign(lens=lens, measure=measure, control=""))
    layers = _layers(rows, options)
    if layers:
        frame = summarise(rows[f"{LEARNED}|heads"], groups, {"state": [layer + 1 for layer in layers]}, "nats")
        frames.append(frame.assign(lens=LEARNED, measure="kl", control=""))
    states = np.arange(rows["logit lens|kl"].shape[1])
    constant = np.repeat(rows["constant|kl"][:, None], len(states), 1)
    frame = summarise(constant, groups, {"state": states}, "nats")
    return [*frames, frame.assign(lens="constant", measure="kl", control="the corpus's mean output")]


def _layers(rows: Rows, options: Options) -> list[int]:
    """`fit` wrote them out as numbers."""
    return [int(layer) for layer in options.layers.split(",")] if f"{LEARNED}|heads" in rows.values else []


def _heads(rows: Rows, options: Options) -> list[pd.DataFrame]:
    layers = _layers(rows, options)
    frames = []
    for way in (LEARNED, *PLAIN) if layers else ():
        frame = summarise(rows[f"{way}|heads"], rows.examples["group"], {"layer": layers}, "nats")
        frames.append(frame.assign(lens=way, control="" if way == LEARNED else "plain unembedding"))
    return frames


def _bias(rows: Rows, options: Options) -> list[pd.DataFrame]:
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
    return frames


def _marginal_kl(means: np.ndarray) -> np.ndarray:
    """[states, 2, tokens], the model's and the lens's mean probabilities -> [states]."""
    whole = np.concatenate([means, np.clip(1 - means.sum(-1, keepdims=True), 0, None)], -1)
    p, q = np.maximum(whole, 1e-12).swapaxes(0, 1)
    return (p * np.log(p / q)).sum(-1)


def _compared(rows: Rows, options: Options) -> list[pd.DataFrame]:
    """The tuned lens's KL as a ratio to the logit lens's over the middle half of the states, and of every layer's
    Attention Lens the paired difference to each plain unembedding and to the constant."""
    groups, frames = rows.examples["group"], []
    if "tuned lens|kl" in rows.values:
        middle = _middle(rows["logit lens|kl"].shape[1] - 1)
        tuned, plain = (rows[f"{lens}|kl"][:, middle].mean(1) for lens in ("tuned lens", "logit lens"))
        frame = summarise(tuned, groups, {}, "ratio", denominators=plain)
        frames.append(frame.assign(measure="tuned / logit lens, middle half", control=""))
        frame = summarise(tuned, groups, {}, "ratio", denominators=rows["constant|kl"])
        frames.append(frame.assign(measure="tuned lens / constant, middle half", control=""))
    layers = _layers(rows, options)
    for way in (*PLAIN, "constant") if layers else ():
        other = rows[f"{way}|heads"] if way in PLAIN else np.repeat(rows["constant|kl"][:, None], len(layers), 1)
        frame = summarise(rows[f"{LEARNED}|heads"] - other, groups, {"layer": layers}, "nats")
        frames.append(frame.assign(measure=f"{LEARNED} − {way}", control=""))
    return frames


def _middle(n_layers: int) -> slice:
    """The middle half of the states that a layer reads."""
    return slice(n_layers // 4, n_layers - n_layers // 4)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of learned lenses; thresholds set before any number was seen."""
    compared = tables.get("compared", pd.DataFrame({"condition": []}))
    compared = compared[compared["condition"] == tables["kl"]["condition"].iloc[0]]
    made = [_claim_tuned(compared), _claim_heads(compared), _claim_bias(tables["bias"])]
    return [claim for claim in made if claim is not None]


def _claim_tuned(compared: pd.DataFrame) -> Claim | None:
    rows = compared[compared["measure"] == "tuned / logit lens, middle half"] if len(compared) else compared
    if rows.empty:
        return None
    text = "The tuned lens predicts the output better: KL at most 0.6 times the logit lens's over the middle half."
    value, lower, upper = rows[["value", "lower", "upper"]].iloc[0]
    numbers = f"{value:.2f} times [{lower:.2f}, {upper:.2f}], held-out text, n = {rows['n'].iloc[0]}"
    return Claim(text, "arXiv 2303.08112", numbers, verdict(upper <= 0.6, lower > 0.6))


def _claim_heads(compared: pd.DataFrame) -> Claim | None:
    rows = compared[compared["measure"].isin([f"{LEARNED} − {way}" for way in PLAIN])] if len(compared) else compared
    if rows.empty:
        return None
    text = "Learned per-head lenses beat the plain unembedding of the heads' sum in KL, however the norm is taken."
    parts = [
        f"layer {layer}: {mine['value'].max():.2f} nats [{mine['lower'].max():.2f}, {mine['upper'].max():.2f}]"
        for layer, mine in rows.groupby("layer")
    ]
    numbers = f"difference to the best plain way, {'; '.join(parts)}; n = {rows['n'].max()}"
    return Claim(
        text, "arXiv 2310.16270", numbers, verdict(bool((rows["upper"] < 0).all()), bool((rows["lower"] > 0).any()))
    )


def _claim_bias(bias: pd.DataFrame) -> Claim | None:
    rows = bias[bias["condition"] == bias["condition"].iloc[0]]
    if rows["lens"].nunique() < 2:
        return None
    text = "The logit lens is biased, the tuned lens hardly: in the middle half its marginal KL is at most a tenth."
    states = rows["state"].max()
    middle = rows[rows["state"].isin(range(states)[_middle(states)])]
    mean = middle.groupby("lens")[["value", "lower", "upper"]].mean()
    tuned, plain = mean.loc["tuned lens"], mean.loc["logit lens"]
    numbers = (
        f"tuned {tuned['value']:.3f} nats [{tuned['lower']:.3f}, {tuned['upper']:.3f}], logit lens "
        f"{plain['value']:.3f} [{plain['lower']:.3f}, {plain['upper']:.3f}] (means over states), n = {rows['n'].max()}"
    )
    holds, fails = tuned["upper"] <= plain["lower"] / 10, tuned["lower"] > plain["upper"] / 10
    return Claim(text, "arXiv 2303.08112", numbers, verdict(bool(holds), bool(fails)))
