"""Tables of `learned_lenses`: every lens by state, the heads' lenses by layer, and the numbers of the claims."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.frames import summarise
from ..common.thumbnails import first_of_groups

LENSES = ("logit lens", "tuned lens")


# How the sum of a layer's heads is read without learning anything.
PLAIN = ("direct effect", "final norm", "no norm")


LEARNED, HEAD_ALONE = "Attention Lens", "z · W_O · W_U"


# The numbers of the claims, rows of `compared`.
TUNED_RATIO, BIAS_RATIO = "tuned / logit lens, middle half", "marginal KL, tuned / logit lens, middle half"


CONSTANT_RATIO = "tuned lens / constant, middle half"


BEST_GAP = f"{LEARNED} − best plain way of each example"


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
        frames.append(frame.assign(measure=CONSTANT_RATIO, control=""))
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
