"""The one attention function: what a layer's attention computes, opened for reading and editing.

It is registered with Hugging Face's AttentionInterface, so no modelling file is patched. By itself it is `sdpa`.
Edits and observers (trace.py) get an `AttentionCall`: the tensors of one layer's attention, from which z, pattern rows
and edited outputs are computed when asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ...data.errors import SubjectError
from . import chosen_keys

NAME = "crosslens"
# Elements of a score tensor that is alive at once where scores are computed explicitly (64 MB in float32).
SCORES_BUDGET = 2**24
# Arguments that are already in the mask, or that change no number of the attention itself.
_HARMLESS = frozenset(
    [
        "sliding_window",
        "position_ids",
        "position_embeddings",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "use_cache",
        "cache_position",
        "num_items_in_batch",
        "return_dict",
        "is_training",
        "logits_to_keep",
        "labels",
        "token_type_ids",
        "mm_token_type_ids",
    ]
)


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of a layer's attention. An edit is a function from a call to another call.

    query: [b, h, q, d_head], key and value: [b, kv, k, d_head] (rotated, KV heads not expanded).
    mask: Bool or additive, [b or 1, 1 or h, q, k]; None means causal where `causal`, else all visible.
    softcap: scores become softcap * tanh(scores / softcap). sinks: [h], a logit that takes probability away.
    bias: added to the scores. head_scale: [b or 1, h, q or 1], multiplies z.
    pattern_edit: a function of pattern rows [b, h, n, k], their numbers Int[b, n] and the slice of examples, to the
    rows that are used instead. edited_rows: Int[b, n], the rows that it may change (None: any); the others keep z.
    indexed: an indexer of the model chose the keys that each query reads: its choice is in the mask.
    """

    module: torch.nn.Module
    query: Float[Tensor, "b h q d"]
    key: Float[Tensor, "b kv k d"]
    value: Float[Tensor, "b kv k e"]
    mask: Tensor | None
    scale: float
    causal: bool
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None
    dropout: float = 0.0
    head_scale: Tensor | None = None
    pattern_edit: PatternEdit | None = None
    edited_rows: Tensor | None = None
    indexed: bool = False
    _memo: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def edited(self, **changes: Any) -> AttentionCall:
        """The same call with other tensors.

        What acts on the outcome adds up: a head_scale multiplies the one that is there, a pattern_edit follows it, and
        the rows of both may change. None takes all of them away.
        """
        scale, pattern_edit = changes.get("head_scale"), changes.get("pattern_edit")
        if scale is not None and self.head_scale is not None:
            changes["head_scale"] = self.head_scale * scale.to(self.head_scale.device)
        if pattern_edit is not None and self.pattern_edit is not None:
            changes["pattern_edit"] = _in_turn(self.pattern_edit, pattern_edit)
            changes["edited_rows"] = _either(self.edited_rows, changes.get("edited_rows"))
        return replace(self, _memo={}, **changes)

    @property
    def explicit(self) -> bool:
        """Whether SDPA does not compute this layer's function."""
        return self.softcap is not None or self.sinks is not None

    def output(self) -> Float[Tensor, "b q h e"]:
        """z, the heads' outputs before W_O, as the model uses them: [b, q, h, d_head]."""
        if self.pattern_edit is not None and self.edited_rows is None:
            z = self._explicit_output()
        else:
            z = self._explicit_output() if self.explicit else self._sdpa_output()
            z = z if self.pattern_edit is None else self._with_edited_rows(z)
        return z if self.head_scale is None else z * self.head_scale.transpose(1, 2)[..., None].to(z.dtype)

    def allowed(self, examples: slice = slice(None)) -> Bool[Tensor, "b heads q k"]:
        """Which keys a query may read: Bool [b or 1, 1 or h, q, k]."""
        if "allowed" not in self._memo:
            self._memo["allowed"] = self._allowed()
        return _narrow(self._memo["allowed"], examples)

    def pattern(
        self, rows: Int[Tensor, "b n"] | None = None, examples: slice = slice(None)
    ) -> Float[Tensor, "b h n k"]:
        """Attention after the softmax, float32 [b, h, n, k]: all query rows, or those of `rows` (Int[b, n]).

        Rows sum to 1 (to 1 - the sink's share where the family has sink logits); rows without a visible key
        (padding) are 0. `examples` narrows the batch. Where the pattern is edited, as edited.
        """
        pattern = self._pattern(rows, examples)
        return pattern if self.pattern_edit is None else self._edit(pattern, rows, examples)

    def _edit(self, pattern: Tensor, rows: Tensor | None, examples: slice) -> Tensor:
        assert self.pattern_edit is not None
        if rows is None:
            rows = torch.arange(pattern.shape[2], device=pattern.device).expand(len(pattern), -1)
        return self.pattern_edit(pattern, rows, examples)

    def _pattern(self, rows: Tensor | None, examples: slice = slice(None)) -> Tensor:
        query = self.query[examples]
        allowed, bias = self._readable(examples), _narrow(self._additive(), examples)
        if rows is not None:
            rows = rows.to(query.device)
            query = query.gather(2, rows[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3]))
            allowed, bias = _take_rows(allowed, rows), _take_rows(bias, rows)
        return self._softmax(query, self.key[examples], allowed, bias)

    def patterns(self) -> Iterator[tuple[slice, Float[Tensor, "b h q k"]]]:
        """Whole patterns, a few examples at a time: an eighth of SCORES_BUDGET elements, or one example's."""
        batch, heads, queries, _ = self.query.shape
        step = max(1, SCORES_BUDGET // 8 // (heads * queries * self.key.shape[2]))
        for start in range(0, batch, step):
            part = slice(start, start + step)
            yield part, self.pattern(examples=part)

    def _readable(self, examples: slice = slice(None)) -> Tensor | None:
        """`allowed`, or None where every query reads every key, as one new token does."""
        unmasked = self.mask is None and not (self.causal and self.query.shape[2] > 1)
        return None if unmasked else self.allowed(examples)

    def _allowed(self) -> Tensor:
        n_queries, n_keys = self.query.shape[2], self.key.shape[2]
        if self.mask is not None:
            bool_mask = self.mask if self.mask.dtype == torch.bool else self.mask > torch.finfo(self.mask.dtype).min
            return bool_mask[..., :n_keys]
        allowed = torch.ones(n_queries, n_keys, dtype=torch.bool, device=self.query.device)
        if self.causal and n_queries > 1:
            if n_queries != n_keys:
                raise RuntimeError(f"causal attention without a mask over {n_queries} queries and {n_keys} keys")
            allowed = allowed.tril()
        return allowed[None, None]

    def _additive(self) -> Tensor | None:
        """What is added to the scores: a float mask's finite part and the position bias."""
        if self.mask is None or self.mask.dtype == torch.bool:
            return self.bias
        return self.mask if self.bias is None else self.mask + self.bias

    def _softmax(self, query: Tensor, key: Tensor, allowed: Tensor | None, bias: Tensor | None) -> Tensor:
        """The pattern of some queries; allowed: None where they read all keys."""
        scores = grouped_matmul(query * self.scale, key.transpose(2, 3)).float()
        if self.softcap is not None:
            scores = scores.div_(self.softcap).tanh()
            scores = scores * self.softcap if scores.requires_grad else scores.mul_(self.softcap)
        if allowed is not None:
            # The mask as an addend without head axis: a fraction of the work of filling the scores.
            addend = torch.zeros(1, device=scores.device) if bias is None else bias.float()
            scores = scores.add_(addend.where(allowed, torch.finfo(torch.float32).min))
        elif bias is not None:
            scores = scores.add_(bias.float())
        if self.sinks is not None:
            sink = self.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            pattern = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
        else:
            pattern = scores.softmax(-1)
        if allowed is None:
            return pattern
        empty = ~allowed.any(-1, keepdim=True)
        # A GPU would have to be waited for to be asked: there it is filled at once.
        none = pattern.device.type == "cpu" and not bool(empty.any())
        return pattern if none else pattern.masked_fill(empty, 0.0)

    def _sdpa_output(self) -> Tensor:
        # What it asks of a module; heads that hear something of their own have keys and values of their own.
        groups: Any = SimpleNamespace(num_key_value_groups=self.query.shape[1] // self.key.shape[1])
        z, _ = sdpa_attention_forward(
            groups,
            self.query,
            self.key,
            self.value,
            self.mask,
            dropout=self.dropout,
            scaling=self.scale,
            is_causal=self.causal,
            position_bias=self.bias,
        )
        return z

    def _explicit_output(self) -> Tensor:
        batch, heads, n_queries, _ = self.query.shape
        step = max(1, SCORES_BUDGET // (batch * heads * self.key.shape[2]))
        allowed, bias = self._readable(), self._additive()
        parts = []
        for start in range(0, n_queries, step):
            rows = slice(start, start + step)
            pattern = self._softmax(
                self.query[:, :, rows],
                self.key,
                _rows(allowed, rows),
                _rows(bias, rows),
            )
            if self.pattern_edit is not None:
                numbers = torch.arange(start, start + pattern.shape[2], device=pattern.device).expand(batch, -1)
                pattern = self._edit(pattern, numbers, slice(None))
            parts.append(grouped_matmul(pattern.to(self.value.dtype), self.value))
        return (parts[0] if len(parts) == 1 else torch.cat(parts, 2)).transpose(1, 2).contiguous()

    def _with_edited_rows(self, z: Tensor) -> Tensor:
        """z with `edited_rows` computed again from their edited patterns, SCORES_BUDGET elements alive at a time."""
        assert self.edited_rows is not None
        z = z.clone()
        step = max(1, SCORES_BUDGET // (z.shape[0] * z.shape[2] * self.key.shape[2]))
        for rows in self.edited_rows.to(z.device).split(step, 1):
            new = grouped_matmul(self.pattern(rows).to(self.value.dtype), self.value).transpose(1, 2)
            z.scatter_(1, rows[:, :, None, None].expand_as(new), new)
        return z


def grouped_matmul(left: Float[Tensor, "b h q d"], right: Float[Tensor, "b kv d k"]) -> Float[Tensor, "b h q k"]:
    """`left @ right` where `right` has fewer (KV) heads; the shared operand is never copied."""
    batch, heads, queries, _ = left.shape
    kv_heads = right.shape[1]
    if left.device.type == "cpu" or heads == kv_heads:
        folded = left.reshape(batch, kv_heads, heads // kv_heads * queries, left.shape[3])
        return (folded @ right).reshape(batch, heads, queries, right.shape[3])
    return left @ repeat_kv(right, heads // kv_heads)


def _in_turn(first: PatternEdit, then: PatternEdit) -> PatternEdit:
    return lambda pattern, rows, examples: then(first(pattern, rows, examples), rows, examples)


def _either(rows: Tensor | None, others: Tensor | None) -> Tensor | None:
    """The rows of two edits, Int[b, n + m]; None (any) where one of them may change any."""
    return None if rows is None or others is None else torch.cat([rows, others.to(rows.device)], 1)


def _narrow(tensor: Tensor | None, examples: slice) -> Any:
    return tensor if tensor is None or tensor.shape[0] == 1 else tensor[examples]


def _rows(tensor: Tensor | None, rows: slice) -> Any:
    return tensor if tensor is None or tensor.shape[2] == 1 else tensor[:, :, rows]


def _take_rows(tensor: Tensor | None, rows: Tensor) -> Any:
    """[b or 1, 1 or h, q, k] -> [b, 1 or h, n, k]."""
    if tensor is None or tensor.shape[2] == 1:
        return tensor
    tensor = tensor.expand(rows.shape[0], *tensor.shape[1:])
    return tensor.gather(2, rows[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3]))


PatternEdit = Callable[[Tensor, Tensor, slice], Tensor]
Edit = Callable[[AttentionCall], AttentionCall]

# z of an attention module's calls while a block of `tracing` is open for its model; every thread sees it.
ACTING: dict[torch.nn.Module, Callable[[AttentionCall], Tensor]] = {}
# A replay of single layers is no forward of the model: its calls belong to it, in its own thread alone.
_replay: ContextVar[Callable[[AttentionCall], Tensor | None] | None] = ContextVar("crosslens_replay", default=None)


@contextmanager
def replaying(attend: Callable[[AttentionCall], Tensor | None] = AttentionCall.output) -> Iterator[None]:
    """Layers that this thread calls in the block are replayed: `attend` gives z, or None to compute it as it is.

    No block of `tracing` edits or observes them.
    """
    token = _replay.set(attend)
    try:
        yield
    finally:
        _replay.reset(token)


def is_replaying() -> bool:
    """Whether the layer that is running belongs to a replay."""
    return _replay.get() is not None


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    indices: Tensor | None = None,
    block_indices: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    unknown = [name for name, value in kwargs.items() if value is not None and name not in _HARMLESS]
    if unknown:
        raise SubjectError(_unknown(module, unknown))
    mask, position_bias = _without_addends(attention_mask, position_bias)
    call = AttentionCall(
        module,
        query,
        key,
        value,
        mask,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
        softcap=softcap,
        sinks=s_aux,
        bias=position_bias,
        dropout=dropout,
    )
    if indices is not None:
        call = _indexed(call, chosen_keys.by_number(indices, key.shape[2]))
    if block_indices is not None:
        indexer: Any = module.indexer
        call = _indexed(call, chosen_keys.by_block(block_indices, indexer.block_size, query.shape[1], key.shape[2]))
    attend = _replay.get() or ACTING.get(module, AttentionCall.output)
    z = attend(call)
    # Families may view z as a matrix, as they can their own attention's.
    return (call.output() if z is None else z).contiguous(), None


def _without_addends(mask: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """A mask that adds more than "seen" or "not seen" to the scores (Doge), as Bool, and a bias that edits keep."""
    if mask is None or mask.dtype == torch.bool:
        return mask, bias
    seen = mask > torch.finfo(mask.dtype).min
    addends = mask.where(seen, 0.0)
    return (seen, addends if bias is None else addends + bias) if bool(addends.any()) else (mask, bias)


def _indexed(call: AttentionCall, chosen: Bool[Tensor, "b heads q k"]) -> AttentionCall:
    """The call with the keys that an indexer of the model chose, which the model masks for eager and SDPA alone."""
    if call.mask is not None and call.mask.dtype != torch.bool:
        return call.edited(mask=call.mask.masked_fill(~chosen, torch.finfo(call.mask.dtype).min), indexed=True)
    return call.edited(mask=call.allowed() & chosen, indexed=True)


def _unknown(module: torch.nn.Module, names: list[str]) -> str:
    family = getattr(getattr(module, "config", None), "model_type", "a family")
    place = "" if getattr(module, "layer_idx", None) is None else f"layer {module.layer_idx}: "
    what = f"{type(module).__name__} passes {', '.join(names)} to its attention"
    return f"{family}: {place}{what}, which crosslens does not know: what they mask or change would be lost"


def register() -> None:
    """Make the attention function and its mask function known to transformers (done on import)."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


register()
