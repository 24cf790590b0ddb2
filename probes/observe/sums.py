"""Sums over the keys of one layer's attention, by head and query: taken once while the layer is alive, for all who ask.

Nearly all that papers say of the shape of attention is made of them, with two nulls: uniform attention on the keys that
a query sees (1 / `seen` each), and the sink twin, the same row without its first key, renormalised: with most of the
attention on the first token, every share is first of all a measure of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..model.attention import SCORES_BUDGET, AttentionCall

DIAGONALS = 4  # a query's own key and the three before it
NOTHING = 1e-12  # attention below which a row gives nothing: its squares would be smaller than float32 can tell


class Sums:
    """Sums over keys, float32; the same numbers for any batch, padding aside. Rows that see no key (padding) are 0.

    first: attention on the first key that the example has. rest: on all others; rest_entropy, −Σ A ln A over these in
    nats; rest_squares, Σ A². All [b, h, q]. diagonals: A[q, q − d] for d = 0…3, [b, h, q, 4], 0 where there is no such
    key. seen: how many keys a query sees, Int[b, 1 or h, q]. Where a layer attends to one image or window after the
    other, queries are in the row's order, and "first" is the first of each.
    """

    def __init__(self, calls: Sequence[AttentionCall]) -> None:
        self._calls = calls
        self._kept: dict[AttentionCall, list[tuple[slice, Tensor]]] = {}

    def patterns(self, call: AttentionCall) -> Iterable[tuple[slice, Float[Tensor, "b h q k"]]]:
        """`call.patterns()`, not to be changed: computed once for all who ask where all of them together are small."""
        if not _is_small(call):
            return call.patterns()
        if call not in self._kept:
            self._kept[call] = [*call.patterns()]
        return self._kept[call]

    first = property(lambda self: self._rows["first"])
    rest = property(lambda self: self._rows["rest"])
    rest_entropy = property(lambda self: self._rows["rest_entropy"])
    rest_squares = property(lambda self: self._rows["rest_squares"])
    diagonals = property(lambda self: self._rows["diagonals"])

    @property
    def entropy(self) -> Float[Tensor, "b h q"]:
        """−Σ A ln A over all keys, nats; 0…ln `seen`."""
        return self.rest_entropy - torch.xlogy(self.first, self.first)

    @property
    def squares(self) -> Float[Tensor, "b h q"]:
        """Σ A² over all keys, 1 / `seen`…1."""
        return self.rest_squares + self.first**2

    @property
    def twin_entropy(self) -> Float[Tensor, "b h q"]:
        """Entropy of the sink twin, 0…ln (`seen` − 1); NaN for rows that give nothing to other keys."""
        return (self.rest_entropy / self._shared + self._shared.log()).clamp_min(0.0)

    @property
    def twin_squares(self) -> Float[Tensor, "b h q"]:
        """Σ A² of the sink twin; NaN as above."""
        return self.rest_squares / self._shared**2

    def twin_mass(self, columns: Bool[Tensor, "b groups k"]) -> Float[Tensor, "b h q groups"]:
        """`mass` of the sink twin, in which the first key belongs to no group; NaN as above."""
        return self.mass_and_twin(columns)[1]

    def mass_and_twin(
        self, columns: Bool[Tensor, "b groups k"]
    ) -> tuple[Float[Tensor, "b h q groups"], Float[Tensor, "b h q groups"]]:
        """`mass` and `twin_mass` of the same groups, by one more attention instead of two."""
        first = self._first_columns.to(columns.device)[:, None]
        others = self.mass(columns & ~first)
        holds = (columns & first).any(-1).to(others)[:, None, None]
        return others + self.first[..., None] * holds, others / self._shared[..., None]

    @property
    def _shared(self) -> Float[Tensor, "b h q"]:
        return self.rest.masked_fill(self.rest < NOTHING, torch.nan)

    @cached_property
    def _first_columns(self) -> Bool[Tensor, "b k"]:
        def of(call: AttentionCall, _: slice) -> Tensor:
            return torch.nn.functional.one_hot(_first_key(call), call.key.shape[2]).bool()

        return self._joined(of, 1)

    @cached_property
    def seen(self) -> Int[Tensor, "b heads q"]:
        return self._joined(lambda call, _: call.allowed().sum(-1))

    @property
    def spread_over_heads(self) -> Float[Tensor, "b q"]:
        """Σ_k of the (population) standard deviation of A[q, k] over heads: 0 where all heads are alike."""
        return self._over_heads["spread"]

    @property
    def head_mean_entropy(self) -> Float[Tensor, "b q"]:
        """Entropy of the mean over heads of a row, nats; never below the mean of the heads' entropies."""
        return self._over_heads["entropy"]

    @cached_property
    def _over_heads(self) -> dict[str, Tensor]:
        parts = [[_of_heads(pattern) for _, pattern in self.patterns(call)] for call in self._calls]
        names = parts[0][0]
        return {name: torch.cat([torch.cat([one[name] for one in part]) for part in parts], 1) for name in names}

    def mass(self, columns: Bool[Tensor, "b groups k"]) -> Float[Tensor, "b h q groups"]:
        """Attention on groups of keys, 0…1: what the layer's attention gives for columns of 0 and 1 as values."""
        return self._joined(lambda call, part: self._mass(call, columns[..., part].to(call.query.device)))

    def _mass(self, call: AttentionCall, columns: Bool[Tensor, "b groups k"]) -> Float[Tensor, "b h q groups"]:
        half = call.query.dtype not in (torch.float32, torch.float64)
        if not (_is_small(call) or half or call.explicit or call.pattern_edit is not None):
            return _fused_mass(call, columns)
        wanted = columns.float().transpose(1, 2)[:, None]
        return torch.cat([pattern @ wanted[part] for part, pattern in self.patterns(call)])

    def uniform_mass(self, columns: Bool[Tensor, "b groups k"]) -> Float[Tensor, "b heads q groups"]:
        """The same of uniform attention on the keys in view, [b, 1 or h, q, groups]; 0 for rows that see none."""

        def of(call: AttentionCall, part: slice) -> Tensor:
            wanted = columns[..., part].to(call.query.device).float().transpose(1, 2)[:, None]
            return call.allowed().float() @ wanted

        return self._joined(of) / self.seen.clamp_min(1)[..., None]

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        found: list[dict[str, Tensor]] = []
        for call in self._calls:
            parts = [_of_part(pattern, _first_key(call)[part]) for part, pattern in self.patterns(call)]
            found.append({name: torch.cat([one[name] for one in parts]) for name in parts[0]})
        return {name: torch.cat([one[name] for one in found], 2) for name in found[0]}

    def _joined(self, of: Callable[[AttentionCall, slice], Tensor], axis: int = 2) -> Tensor:
        """What each call gives for its stretch of the row, joined along the queries."""
        parts, start = [], 0
        for call in self._calls:
            end = start + call.key.shape[2]
            parts.append(of(call, slice(start, end)))
            start = end
        return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def _first_key(call: AttentionCall) -> Int[Tensor, "b"]:
    """The first key that any query sees."""
    return call.allowed().any(2).any(1).int().argmax(-1).expand(len(call.query))


def _of_part(pattern: Float[Tensor, "b h q k"], first: Int[Tensor, "b"]) -> dict[str, Tensor]:
    """All in one pass over some examples' maps."""
    diagonals = _diagonals(pattern)
    column = first.reshape(-1, 1, 1, 1).expand(*pattern.shape[:3], 1)
    on_first = pattern.gather(3, column)[..., 0]
    rest = pattern.scatter(3, column, 0.0)
    return {
        "first": on_first,
        "rest": rest.sum(-1),
        "rest_entropy": torch.special.entr(rest).sum(-1).clamp_min(0.0),
        "rest_squares": torch.linalg.vecdot(rest, rest),
        "diagonals": diagonals,
    }


def _of_heads(pattern: Float[Tensor, "b h q k"]) -> dict[str, Tensor]:
    mean = pattern.mean(1, keepdim=True)
    entropy = torch.special.entr(mean[:, 0]).sum(-1).clamp_min(0.0)
    return {"spread": (pattern - mean).square_().mean(1).sqrt_().sum(-1), "entropy": entropy}


def _diagonals(pattern: Float[Tensor, "b h q k"]) -> Float[Tensor, "b h q diagonals"]:
    """A[q, q − d]; the last query's own key is the last one."""
    queries, keys = pattern.shape[2:]
    own = torch.arange(queries, device=pattern.device) + keys - queries
    wanted = own[:, None] - torch.arange(DIAGONALS, device=pattern.device)
    found = pattern.gather(3, wanted.clamp_min(0).expand(*pattern.shape[:2], -1, -1))
    return found.masked_fill(wanted < 0, 0.0)


def _is_small(call: AttentionCall) -> bool:
    """Whether the maps of the whole batch may be held while the layer is alive."""
    batch, heads, queries, _ = call.query.shape
    return batch * heads * queries * call.key.shape[2] <= SCORES_BUDGET


def _fused_mass(call: AttentionCall, columns: Bool[Tensor, "b groups k"]) -> Float[Tensor, "b h q groups"]:
    """By the fused attention, which makes no maps."""
    wanted = columns.float().transpose(1, 2)[:, None]
    width, groups = call.query.shape[-1], columns.shape[1]
    # As wide as the keys: the fused attention asks for it.
    padded = torch.nn.functional.pad(wanted.to(call.value.dtype), (0, -groups % width))
    parts = [one.expand(-1, call.key.shape[1], -1, -1) for one in padded.split(width, 3)]
    out = torch.cat([call.edited(value=value, head_scale=None).output() for value in parts], 3)
    return _without_empty(out.transpose(1, 2)[..., :groups], call)


def _without_empty(mass: Tensor, call: AttentionCall) -> Tensor:
    """0 for rows that see no key: what fused attention gives for them is left open."""
    return mass.masked_fill(~call.allowed().any(-1)[..., None], 0.0).float()
