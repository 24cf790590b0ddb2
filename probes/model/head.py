"""From normed states to logits: the head, its bias, the logit scale and the soft cap."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...data.errors import SubjectError
from . import anatomy
from .fingerprint import fetched

# What the head's output is multiplied with where the configuration does not say so.
LOGIT_SCALES: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()
# Two ways to the same factor in float32.
NEAR = 1e-5
# Bytes of logits, or of a copy of W_U, that are held at once; readers make some more as large.
LOGITS = 96 * 2**20


def find_head(model: nn.Module) -> nn.Module:
    """The language-model head, of the language model where one is wrapped. SubjectError: there is none."""
    for owner in (model, getattr(model, "language_model", None)):
        head = owner.get_output_embeddings() if hasattr(owner, "get_output_embeddings") else None  # pyright: ignore
        if head is not None:
            return head
    raise SubjectError(f"{type(model).__name__} has no language-model head: name a causal language model")


def unembedding(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function from normed states to logits: head, bias, logit scale and soft cap as the model applies them."""
    head: Any = find_head(model)
    scale, cap = logit_scale(model), _logit_cap(model)

    def unembed(states: Tensor) -> Tensor:
        logits = head(states.to(head.weight.dtype)) * scale
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return unembed


def linear_head(model: nn.Module) -> tuple[Tensor, Tensor | None, float] | None:
    """Weight [vocab, d], bias and scale of `unembedding`; None where a soft cap bends the logits."""
    return None if _logit_cap(model) is not None else head_parts(model)


def unembedding_weight(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """W_U [vocab, d] and the head's bias, the logit scale in both; before the soft cap where the model has one."""
    weight, bias, scale = head_parts(model)
    weight, bias = weight.detach(), None if bias is None else bias.detach() * scale
    return weight if scale == 1.0 else weight * scale, bias


def head_parts(model: nn.Module) -> tuple[Tensor, Tensor | None, float]:
    """The head's weight [vocab, d] and bias as they are kept, and the logit scale, without a soft cap."""
    head: Any = find_head(model)
    bias = fetched(head, "bias") if getattr(head, "bias", None) is not None else None
    return fetched(head), bias, logit_scale(model)


def logit_scale(model: nn.Module) -> float:
    """Cohere multiplies by the model's `logit_scale`, Granite divides by the configured `logits_scaling`; of others it
    was measured.
    """
    if model in LOGIT_SCALES:
        return LOGIT_SCALES[model]
    text_config = model.config.get_text_config()  # pyright: ignore
    scale = getattr(model, "logit_scale", None)  # None is 1, 0 is 0
    return (1.0 if scale is None else float(scale)) / float(getattr(text_config, "logits_scaling", None) or 1.0)


def _logit_cap(model: nn.Module) -> float | None:
    text_config = model.config.get_text_config()  # pyright: ignore
    caps = (getattr(text_config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap"))
    return next((cap for cap in caps if cap is not None), None)


def vocabulary(model: nn.Module) -> int:
    """How many words the logits are over."""
    head: Any = find_head(model)  # its shape alone: an offloaded weight is not fetched for it
    return int(getattr(head, "out_features", None) or head.weight.shape[0])


def rows_at_once(words: int, budget: int = LOGITS) -> int:
    """For how many rows logits over so many words, float32, fit into `budget` bytes."""
    return max(1, budget // (4 * words))


def in_rows(read: Callable[..., Any], model: nn.Module, *tensors: Tensor, budget: int = LOGITS) -> Any:
    """read(*tensors) [n, ...] (a tensor, or a dictionary of them), a few rows of `tensors` [n, ...] at a time: so many
    that their logits, float32, fit into `budget` bytes.
    """
    step = rows_at_once(vocabulary(model), budget)
    if len(tensors[0]) <= step:
        return read(*tensors)
    found = [read(*parts) for parts in zip(*(tensor.split(step) for tensor in tensors), strict=True)]
    if isinstance(found[0], Tensor):
        return torch.cat(found)
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def of_words(model: nn.Module, words: Tensor) -> Callable[[Tensor], Tensor]:
    """`unembedding` of some words alone, [n, d] -> [n, words], float32: their rows are copied once."""
    weight, bias, scale = head_parts(model)
    weight, cap = weight.detach()[words].float(), _logit_cap(model)
    bias = None if bias is None else bias.detach()[words].float()

    def unembed(states: Tensor) -> Tensor:
        logits = nn.functional.linear(states.float(), weight, bias) * scale
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return unembed


def word_directions(model: nn.Module, words: Tensor) -> Tensor:
    """The rows of W_U [..., d] of some words, float32, logit scale included."""
    weight, _, scale = head_parts(model)
    return weight.detach()[words.to(weight.device)].float() * scale


def along_words(model: nn.Module, x: Tensor) -> Tensor:
    """x · W_Uᵀ in float32 [..., d] -> [..., vocab], logit scale included; no copy of W_U is larger than LOGITS."""
    weight, _, scale = head_parts(model)
    return times_words(x, weight) * scale


def times_words(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ in float32, [..., d] -> [..., words]; what is not float32 is widened a few words at a time."""
    x, weight = x.float(), weight.detach()
    if weight.dtype == torch.float32:
        return x @ weight.T
    return torch.cat([x @ part.float().T for part in few_words(weight)], -1)


def few_words(weight: Tensor) -> tuple[Tensor, ...]:
    """weight [words, d] in parts that are at most LOGITS bytes in float32."""
    return weight.detach().split(max(1, LOGITS // (4 * weight.shape[1])))


class HeadWatch:
    """Sees what the final norm and the head write in one forward, and notes the logit scale.

    Both are given on in float32 at least: a factor of half precision is a rounded one.
    """

    def __init__(self, model: Any, hooks: ExitStack) -> None:
        self.model, self.seen = model, []  # what the norm wrote, what the head read, what it wrote
        norms = anatomy.children_named(anatomy.find_decoder(model), anatomy.FINAL_NORM)
        head = find_head(model)
        if norms:
            hooks.callback(norms[0].register_forward_hook(self._widened).remove)
            hooks.callback(head.register_forward_pre_hook(self._narrowed).remove)
            hooks.callback(head.register_forward_hook(self._widened).remove)

    def _widened(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        self.seen.append(output.to(torch.promote_types(output.dtype, torch.float32)))
        return self.seen[-1]

    def _narrowed(self, module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        self.seen.append(args[0])
        return (args[0].to(module.weight.dtype),)

    def tell_scale(self, logits: Tensor) -> None:
        """Notes what lies between norm and logits beside the head, where that is one number and no known one."""
        LOGIT_SCALES.pop(self.model, None)
        if len(self.seen) != 3:
            return
        normed, read, written = self.seen
        cap = _logit_cap(self.model)
        uncapped = logits if cap is None else torch.atanh(logits.double() / cap) * cap
        scale = _ratio(read, normed) * _ratio(uncapped, written)
        if abs(scale - logit_scale(self.model)) > 10 * NEAR * abs(scale):
            LOGIT_SCALES[self.model] = scale


def _ratio(found: Tensor, of: Tensor) -> float:
    """The number that one tensor is of the other, NaN where it is none."""
    if found.shape != of.shape:
        return torch.nan
    ratio = float((found.double() * of.double()).sum() / of.double().square().sum())
    return ratio if bool((found - of * ratio).abs().max() <= NEAR * found.abs().max()) else torch.nan
