"""Attention of stacked variants: queries at some rows against the clean keys that all share, and keys of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..model.attention import AttentionCall, grouped_matmul
from .interventions import CALL

if TYPE_CHECKING:
    from .interventions import EditAttention, Knockout
    from .positions import Positions
    from .recording import LayerRecord

    Knockouts = list[tuple[int, Knockout]]  # (variant, what it removes in this layer)
    Edits = list[tuple[int, Knockout | EditAttention]]

# What layers have in common: which clean columns, and which of each other, rows may read; what knockouts take of these.
Visible = dict[tuple[Any, ...], tuple[Tensor, Tensor]]
# Bytes of attention scores that are computed at a time: about a core's cache; elsewhere a few large steps.
# On a CPU columns that nobody reads are left out, too: elsewhere every layer would wait to be told which.
IN_CACHE, ON_DEVICE = 2**22, 2**28


def attend(
    call: AttentionCall,
    record: LayerRecord,
    key: Tensor,
    value: Tensor,
    where: Positions,
    knockouts: Knockouts,
    visible: Visible,
) -> Float[Tensor, "v b s h e"]:
    """z of all variants, a few at a time, so that their scores stay in the processor's cache."""
    b, s = where.index.shape
    scores = b * call.query.shape[1] * s * (key.shape[2] + s)
    at_once = IN_CACHE if call.query.device.type == "cpu" else ON_DEVICE
    step, n = max(1, at_once // (4 * scores)), len(call.query) // b
    parts = []
    for at in range(0, n, step):
        part = slice(at * b, (at + step) * b)
        few = call.edited(query=call.query[part], key=call.key[part], value=call.value[part])
        here = [(v - at, c) for v, c in knockouts if at <= v < at + step]
        parts.append(_few(few, record, key, value, where, here, visible))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attend_edited(
    call: AttentionCall,
    record: LayerRecord,
    key: Tensor,
    value: Tensor,
    where: Positions,
    edits: Edits,
    visible: Visible,
) -> Float[Tensor, "v b s h e"]:
    """The same where some variants edit the attention: each of these computes its own call, the others go together.

    UserError: a variant that removes edges and edits the attention of one layer.
    """
    b = len(where.index)
    own: dict[int, list[Any]] = {v: [c for w, c in edits if w == v] for v, c in edits if c.site == CALL}
    if any(c.site != CALL for changes in own.values() for c in changes):
        raise UserError("one variant removes edges and edits the attention of one layer: let the edit remove them")
    together = [v for v in range(len(call.query) // b) if v not in own]
    z: dict[int, Tensor] = {}
    if together:
        few = _of_variants(call, together, b)
        knockouts: Any = [(together.index(v), c) for v, c in edits if v not in own]
        z |= zip(together, attend(few, record, key, value, where, knockouts, visible), strict=True)
    for v, changes in own.items():
        alone = whole_call(_of_variants(call, [v], b), record, key, value, where)
        for change in changes:
            alone = change.function(alone, where)
        z[v] = alone.output()
    return torch.stack([z[v] for v in range(len(z))])


def _of_variants(call: AttentionCall, variants: list[int], b: int) -> AttentionCall:
    """The calls of some of the stacked variants."""

    def few(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (-1, b))[variants].flatten(0, 1)

    return call.edited(query=few(call.query), key=few(call.key), value=few(call.value))


def whole_call(call: AttentionCall, record: LayerRecord, key: Tensor, value: Tensor, where: Positions) -> AttentionCall:
    """One variant's call as a forward has it: queries at the rows; keys and values everywhere, there its own."""
    keys, values = (_with_own(own, clean, where) for own, clean in ((call.key, key), (call.value, value)))
    allowed = where.take(record.allowed.transpose(1, 2)).transpose(1, 2)
    return call.edited(key=keys, value=values, mask=allowed)


def _with_own(own: Float[Tensor, "b kv s e"], clean: Float[Tensor, "b kv p e"], where: Positions) -> Tensor:
    stacked = clean.to(own).transpose(1, 2).clone()[None]
    return where.put_each(own.transpose(1, 2)[None], stacked)[0].transpose(1, 2)


def _few(
    call: AttentionCall,
    record: LayerRecord,
    key: Tensor,
    value: Tensor,
    where: Positions,
    knockouts: Knockouts,
    visible: Visible,
) -> Float[Tensor, "v b s h e"]:
    """z of some variants: their queries against shared clean keys, a donor's, and their own keys."""
    n = len(call.query) // len(where.index)
    clean_seen, own_seen = _visible(record, where, visible)
    columns = clean_seen.shape[-1]
    key, value = key[:, :, :columns], value[:, :, :columns]
    if not knockouts:
        return _shared_attention(call, key, value, _joined([clean_seen, own_seen]))
    cut = id(where), columns, call.query.device, tuple((v, id(knockout)) for v, knockout in knockouts)
    if cut not in visible:
        visible[cut] = _removed(where, n, knockouts, columns, call.query.device)
    removed = visible[cut]
    seen = [clean_seen & ~removed[0], own_seen & ~removed[1]]
    for donor in {id(c.donor): c.donor for _, c in knockouts if c.donor is not None}.values():
        visible_donor, index = _donor_visible(where, n, [(v, c) for v, c in knockouts if c.donor is donor], record)
        lent_key, lent_value = (tensor[:, :, index].to(key.dtype) for tensor in (donor.key, donor.value))
        key, value = torch.cat([key, lent_key], 2), torch.cat([value, lent_value], 2)
        seen.insert(-1, visible_donor)
    readable = _joined(seen)
    parts = []
    on_cpu = call.query.device.type == "cpu"
    for part in _parts(where, [knockout for _, knockout in knockouts]) if on_cpu else [slice(None)]:
        few = call.edited(query=call.query[:, :, part])
        parts.append(_shared_attention(few, key, value, readable[:, :, :, part]))
    # A row that is left without keys reads nothing: z is 0 there, as in a whole forward.
    return torch.cat(parts, 2) * readable.any(-1).permute(2, 0, 3, 1)[..., None]


def _parts(where: Positions, knockouts: list[Knockout]) -> list[slice]:
    """The rows up to the last that is cut, and those behind it: the first may need few columns."""
    targets = torch.stack([where.take(knockout.target) for knockout in knockouts]).flatten(0, 1).any(0)
    end = int(targets.nonzero().max()) + 1 if bool(targets.any()) else 0
    return [part for part in (slice(0, end), slice(end, None)) if len(targets[part])]


def _visible(record: LayerRecord, where: Positions, visible: Visible) -> tuple[Tensor, Tensor]:
    """What the rows may read: clean columns [b, 1 or h, 1, s, columns], each other [b, 1 or h, 1, s, s].

    Columns behind the last clean one that anybody reads are left out.
    """
    key = id(record.allowed), id(where)
    if key not in visible:
        device = record.allowed.device
        at_rows = where.take(record.allowed.transpose(1, 2)).transpose(1, 2)
        index = where.index.to(device)[:, None, None].expand(*at_rows.shape[:3], -1)
        own = at_rows.gather(3, index) & where.real.to(device)[:, None, None]
        clean = at_rows & ~where.chosen.to(device)[:, None, None]
        read = clean.flatten(0, 2).any(0).nonzero()
        end = int(read.max()) + 1 if len(read) else 0
        visible[key] = clean[..., :end][:, :, None], own[:, :, None]
    return visible[key]


def _removed(
    where: Positions, n: int, knockouts: Knockouts, columns: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Edges that are removed: towards clean columns [b, 1, v, s, columns], towards the rows [b, 1, v, s, s]."""
    b, s = where.index.shape
    clean = torch.zeros(b, 1, n, s, columns, dtype=torch.bool, device=device)
    own = torch.zeros(b, 1, n, s, s, dtype=torch.bool, device=device)
    for v, knockout in knockouts:
        target, source = where.take(knockout.target.to(device))[..., None], knockout.source.to(device)
        clean[:, 0, v] |= target & source[:, None, :columns]
        own[:, 0, v] |= target & where.take(source)[:, None]
    return clean, own


def _donor_visible(where: Positions, n: int, knockouts: Knockouts, record: LayerRecord) -> tuple[Tensor, Tensor]:
    """Which donor columns the rows read, [b, 1 or h, v, s, m], and their positions Int[m]."""
    device = record.allowed.device
    sources = torch.stack([c.source for _, c in knockouts]).flatten(0, 1).any(0)
    index = sources.nonzero()[:, 0].to(device) if device.type == "cpu" else torch.arange(len(sources), device=device)
    at_rows = where.take(record.allowed.transpose(1, 2)).transpose(1, 2)[..., index]
    lent = torch.zeros(at_rows.shape[0], 1, n, *at_rows.shape[2:], dtype=torch.bool, device=device)
    for v, knockout in knockouts:
        target = where.take(knockout.target.to(device))[..., None]
        lent[:, 0, v] |= target & knockout.source.to(device)[:, None, index]
    return lent & at_rows[:, :, None], index


def _shared_attention(
    call: AttentionCall,
    key: Float[Tensor, "b kv m e"],
    value: Float[Tensor, "b kv m e"],
    seen: Bool[Tensor, "b h v s k"],
) -> Float[Tensor, "v b s h e"]:
    """z of queries [v·b, h, s, e] that read shared keys and their own, [v·b, kv, r, e]; k = m + r columns in all."""
    used = seen[..., : key.shape[2]].flatten(0, 3).any(0)
    if used.device.type == "cpu" and not bool(used.all()):
        seen = torch.cat([seen[..., : key.shape[2]][..., used], seen[..., key.shape[2] :]], -1)
        key, value = key[:, :, used], value[:, :, used]
    b, heads = len(key), call.query.shape[1]
    query = call.query * call.scale
    n, s = len(query) // b, query.shape[2]
    folded = query.unflatten(0, (n, b)).permute(1, 2, 0, 3, 4).reshape(b, heads, n * s, -1)
    shared = grouped_matmul(folded, key.transpose(2, 3)).unflatten(2, (n, s))
    own = grouped_matmul(query, call.key.transpose(2, 3)).unflatten(0, (n, b)).permute(1, 2, 0, 3, 4)
    pattern = _softmax(torch.cat([shared, own], -1), seen, call).to(value.dtype)
    z = grouped_matmul(pattern[..., : key.shape[2]].flatten(2, 3), value).unflatten(2, (n, s))
    rest = pattern[..., key.shape[2] :].permute(2, 0, 1, 3, 4).flatten(0, 1)
    z_own = grouped_matmul(rest, call.value).unflatten(0, (n, b))
    return z.permute(2, 0, 3, 1, 4) + z_own.transpose(2, 3)


def _joined(seen: list[Tensor]) -> Tensor:
    """Visibilities side by side; their head and variant axes may be 1."""
    shape = torch.broadcast_shapes(*[part.shape[:-1] for part in seen])
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in seen], -1)


def _softmax(scores: Float[Tensor, "b h v s k"], seen: Tensor, call: AttentionCall) -> Tensor:
    """The pattern, in float32 at least."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if call.softcap is not None:
        scores = scores.div_(call.softcap).tanh_() * call.softcap  # a gradient needs the tanh itself
    scores = scores.add_(scores.new_zeros(1).where(seen, torch.finfo(scores.dtype).min))
    if call.sinks is None:
        return scores.softmax(-1)
    sink = call.sinks.to(scores.dtype).reshape(1, -1, 1, 1, 1).expand(*scores.shape[:4], 1)
    return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
