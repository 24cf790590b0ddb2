"""One layer's tensors during a forward."""

from __future__ import annotations

from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...data.errors import SubjectError
from ..model import anatomy
from ..model.attention import AttentionCall
from ..model.stack import PROJECTOR
from ..sites import PARTS, SITES, Site, SiteError, site
from .sums import Sums

if TYPE_CHECKING:
    from ..model.stack import Stack
    from ..model.subject import Subject


class Layer:
    """One layer's tensors during the forward. Names follow TransformerLens, shapes are [b, p, ...].

    `layer["mlp_post"]` reads any site of the table; those with a rule of their own have a property as well.
    resid_pre, resid_post: the residual stream entering and leaving. attn_out, mlp_out: what is added to it.
    attn_z, z: [b, p, h, d_head]; z is what W_O reads, attn_z what the attention gives, before a gate or a norm if there
    is one. rot_q: [b, p, h, d_head], rot_k and v: [b, p, kv, d_head], as the attention reads them.

    In a vision tower b counts images (or tiles) and p patches. Towers that pack the patches of all images into one row
    (Qwen-VL, GLM-V, Pixtral) have b = 1; where they attend to one image or window after the other, `calls` has one call
    for each and the pattern is made of blocks.
    """

    resid_pre: Tensor
    resid_post: Tensor

    def __init__(self, subject: Subject, stack: Stack, index: int) -> None:
        self.subject, self.stack, self.index = subject, stack, index
        self.calls: list[AttentionCall] = []
        self._attn_z: list[Tensor] = []
        self._read_by_W_O = torch.zeros(0)  # before rewrites
        self._raw: dict[str, Tensor] = {}
        self._called: tuple[tuple[Any, ...], dict[str, Any]] = (), {}

    @property
    def arguments(self) -> dict[str, Any]:
        """What the block was called with, by the names of its own `forward`."""
        return by_name(self.module, *self._called)

    @property
    def module(self) -> nn.Module:
        return self.stack.layers[self.index]

    def __getitem__(self, name: str) -> Tensor:
        """A site's tensor by its short name. SiteError: unknown, or one that this layer does not have."""
        row = site(name)
        if name == "pattern":
            return self.pattern()
        return self._of_module(row) if row.in_module and row.reads[1] != "block" else getattr(self, name)

    @property
    def attends(self) -> bool:
        """Whether it has attention: in hybrids, layers with a mixer of another kind have no pattern and no heads."""
        return self.index in self.stack.attending

    def lacks(self, row: Site) -> bool:
        """Whether other layers of the stack have a site that this one has not: heads, or a part of the residual."""
        if not (row.of_attention or row.name in PARTS) or self.stack.has(self.index, row):
            return False
        return any(self.stack.has(other, row) for other in range(self.stack.n_layers))

    @property
    def attention(self) -> AttentionCall:
        """The call of the attention function; SubjectError where this layer did not go through it, or several times."""
        if not self.calls:
            self.stack.require(self.index, SITES["pattern"])
            raise SubjectError(
                f"{self.stack.family}: {self.stack.prefix}layer {self.index} does not call transformers' attention "
                "interface: its attention is written in its own code, so its patterns cannot be read or edited"
            )
        if len(self.calls) > 1:
            raise SubjectError(f"{self.stack.family} attends to one image or window after the other: read layer.calls")
        return self.calls[0]

    @property
    def attn_z(self) -> Float[Tensor, "b p h d"]:
        return _joined(self._attn_z) if self._attn_z else self.attention.output()

    @property
    def z(self) -> Float[Tensor, "b p h d"]:
        return self["z"]

    @property
    def gated(self) -> bool:
        """Whether a gate, or a norm, stands between the attention and W_O: attn_z (pattern · v) is not z."""
        return self.attends and not torch.equal(self.as_site("z", self._read_by_W_O), self.attn_z)

    @property
    def rot_q(self) -> Float[Tensor, "b p h d"]:
        return self._attended("query")

    @property
    def rot_k(self) -> Float[Tensor, "b p kv d"]:
        return self._attended("key")

    @property
    def v(self) -> Float[Tensor, "b p kv d"]:
        return self._attended("value")

    @property
    def q(self) -> Float[Tensor, "b p h d"]:
        return self["q"]

    @property
    def k(self) -> Float[Tensor, "b p kv d"]:
        return self["k"]

    @property
    def attn_out(self) -> Float[Tensor, "b p d"]:
        return self["attn_out"]

    @property
    def mlp_out(self) -> Float[Tensor, "b p d"]:
        return self["mlp_out"]

    @property
    def resid_mid(self) -> Float[Tensor, "b p d"]:
        """The residual between attention and MLP; SiteError in parallel blocks, which have none."""
        self.stack.require(self.index, SITES["resid_mid"])
        return anatomy.times(self.resid_pre, anatomy.carries(self.module)[0]) + self.attn_out

    def sum_of_parts(self) -> Float[Tensor, "b p d"]:
        """What leaves the layer, as its parts say: carried · resid_pre, attn_out, mlp_out and beside_out; float32."""
        into_mid, past_mid = anatomy.carries(self.module)
        total = anatomy.times(self.resid_pre.float(), into_mid)
        for name in PARTS:
            if name == "mlp_out":
                total = anatomy.times(total, past_mid)
            if self.stack.has(self.index, SITES[name]):
                total = total + self[name].float()
        return total

    def pattern(self, rows: Int[Tensor, "b n"] | None = None) -> Float[Tensor, "b h n k"]:
        """Attention after the softmax, all query rows or those of `rows`; float32."""
        return self.attention.pattern(rows) if len(self.calls) < 2 else _blocks(self.calls, rows)

    @cached_property
    def sums(self) -> Sums:
        """Entropy, Σ A², diagonals, mass on groups of keys: computed when first asked for, once for all who observe."""
        return Sums(self.calls or [self.attention])

    def written(self, name: str) -> Tensor:
        """A site as rewrites get it: parts of the residual as their last writer gives them, before `anatomy.gain`."""
        row = site(name)
        if not row.in_module or row.reads[1] == "block":
            return self[name]
        if name not in self._raw:
            self.stack.require(self.index, row)
            raise SiteError(f"{self.stack.family}: layer {self.index} did not run the module of {name}")
        return self.as_site(name, self._raw[name])

    def as_site(self, name: str, tensor: Tensor) -> Tensor:
        """What a module reads or writes as a site's [b, p, ...], with heads where the site has them."""
        tensor, axis = self.as_batch(tensor), site(name).axes[2]
        if axis not in ("head", "kv_head"):
            return tensor
        heads = self.stack.heads(self.index) if axis == "head" else self.stack.kv_heads(self.index)
        return tensor.reshape(*tensor.shape[:2], heads, -1)

    def as_batch(self, tensor: Tensor) -> Tensor:
        """[b, p, ...] of what some families flatten to [b·p, ...]; of a projector [1, p, ...], it may merge patches."""
        if tensor.ndim != 2:
            return tensor
        return tensor[None] if self.stack.name == PROJECTOR else tensor.reshape(*self.resid_pre.shape[-3:-1], -1)

    def _of_module(self, row: Site) -> Tensor:
        tensor = self.written(row.name)
        return anatomy.times(tensor, anatomy.gain(self.module, row.name)) if row.name in PARTS else tensor

    def _attended(self, name: str) -> Tensor:
        calls = self.calls if len(self.calls) > 1 else [self.attention]
        return _joined([getattr(call, name).transpose(1, 2) for call in calls])


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by the names of the block's own `forward`."""
    names = [name for name in signature(type(module).forward).parameters if name != "self"]
    return dict(zip(names, args, strict=False)) | kwargs


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _blocks(calls: list[AttentionCall], rows: Int[Tensor, "1 n"] | None) -> Float[Tensor, "1 h n k"]:
    """The pattern of calls that attend to one stretch of a row after the other: nothing is read across stretches."""
    ends = torch.tensor([call.query.shape[2] for call in calls]).cumsum(0).tolist()
    rows = torch.arange(ends[-1])[None] if rows is None else rows
    query = calls[0].query
    pattern = torch.zeros(1, query.shape[1], rows.shape[1], ends[-1], device=query.device)
    for call, start, end in zip(calls, [0, *ends], ends, strict=False):
        inside = ((rows[0] >= start) & (rows[0] < end)).nonzero()[:, 0].to(query.device)
        pattern[:, :, inside, start:end] = call.pattern(rows.to(query.device)[:, inside] - start)
    return pattern
