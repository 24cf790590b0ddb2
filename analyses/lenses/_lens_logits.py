"""What states and heads say through each lens."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...probes.model import frozen_norms
from ...probes.model.head import along_words, in_rows
from ...probes.runs.results import How
from .. import metrics
from . import _attention_lens, _tuned_lens
from ._learned_tables import HEAD_ALONE, LEARNED, LENSES
from ._learning import layers_of, open_lens


def said_by_heads(subject: Any, z: Tensor, how: How) -> dict[str, Tensor]:
    """The likeliest tokens of every head alone, z [b, layers, h, d_head]: by its learned map, and by z · W_O · W_U."""
    layers, said = layers_of(subject.decoder.attending, how.learned.layers), {}
    for at, layer in enumerate(layers):
        mine = z[:, at].to(subject.device).float()
        weights = {k: w.to(mine.device) for k, w in open_lens(subject, how.learned.lens, "attention", layer).items()}
        W_O = subject.W_O(layer).detach().float()
        for head in range(mine.shape[1]):
            likeliest = partial(_likeliest, subject, weights, W_O[head], head, how.options.words)
            for name, values in in_rows(likeliest, subject.model, mine).items():
                said.setdefault(name, []).append(values)
    return {name: torch.stack(x, 1).unflatten(1, (len(layers), -1)) for name, x in said.items()}


def _likeliest(subject: Any, weights: Any, W_O: Tensor, head: int, count: int, z: Tensor) -> dict[str, Tensor]:
    """The likeliest tokens of one head, z [n, h, d_head]; by its learned map among the words that have one."""
    learned = _attention_lens.head_logits(weights, z, head)
    plain, found = along_words(subject.model, z[:, head] @ W_O), {}
    for way, logits in ((LEARNED, learned), (HEAD_ALONE, plain)):
        top = logits.topk(min(count, logits.shape[-1]), -1)
        ids = weights["words"][top.indices] if way == LEARNED and "words" in weights else top.indices
        found |= {f"{way}|ids": ids.int().cpu(), f"{way}|logits": top.values.cpu()}
    return found


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


def unembedded(subject: Any, states: Tensor, norm: bool = True) -> Tensor:
    return metrics.logit_lens(states, subject.norm if norm else None, subject.unembed).float()


def state_logits(subject: Any, lens: str, state: int, x: Tensor, learned: str) -> Tensor:
    """A state through a lens; the last one is the model's own output in both."""
    if lens == LENSES[0] or state == subject.n_layers:
        return unembedded(subject, x)
    weights = open_lens(subject, learned, "tuned", state)
    return _tuned_lens.logits(subject, {name: w.to(x.device) for name, w in weights.items()}, x).float()


def read_lens(logits: Tensor, final: Tensor, shared: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "kl": metrics.kl_divergence(final, logits),
        "top1": (logits.argmax(-1) == final.argmax(-1)).float(),
        "marginal": logits.softmax(-1)[:, shared["frequent"].to(logits.device)],
    }


def head_logits(subject: Any, way: str, layer: int, z: Tensor, written: Tensor, final: Tensor, learned: str) -> Tensor:
    """What the heads of a layer say together. written: what attention adds to the residual."""
    if way == LEARNED:
        weights = open_lens(subject, learned, "attention", layer)
        return _attention_lens.logits({name: w.to(z.device) for name, w in weights.items()}, z, subject)
    if way == "direct effect":
        norm = frozen_norms.affine(subject.norm, final)
        states = norm.centered(written.float()) * norm.gain / norm.scale(final) + norm.bias
        logits = along_words(subject.model, states)
        return logits if subject.b_U is None else logits + subject.b_U.float()
    return unembedded(subject, written, norm=way == "final norm")
