"""A forward recorded with what replaying its layers needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...data.errors import UserError
from ..model import hybrid
from ..model.attention import AttentionCall
from ..model.edits import Block
from ..model.subject import last_positions
from ..observe.capture import own_storage
from ..observe.layer import Layer
from ..observe.tracing import tracing
from ..prompts.batch import Batch, mark_last
from ..sites import SITES, SiteError, require_writable
from .positions import Positions, at_last, closure, positions_of

if TYPE_CHECKING:
    from ..model.subject import Subject

# Arguments of a block that are cut to the rows; the mask is the attention function's own.
PER_POSITION = ("position_ids", "position_embeddings")
MASK = "attention_mask"


@dataclass(frozen=True, eq=False, repr=False)
class LayerRecord:
    """One layer of a recorded forward.

    key, value: [b, kv, p, d_head]; none without attention. allowed: Bool[b or 1, 1 or h, p, p]; without attention every
    row reads all before it. added: what came between the layer before and this one (Qwen3-VL's image features).
    sites: those asked for, as `Layer.written`. whole: whether it has to run on all rows, see `hybrid.runs_whole`.
    mixed: without attention, what a mixer in its place writes, as `Layer.written("attn_out")`, None where none is.
    """

    resid_pre: Float[Tensor, "b p d"]
    key: Tensor
    value: Tensor
    allowed: Tensor
    arguments: dict[str, Any]
    added: Tensor | None
    sites: dict[str, Tensor]
    whole: bool = False
    mixed: Tensor | None = None

    @property
    def attends(self) -> bool:
        """Whether the layer has attention."""
        return self.key.numel() > 0

    def holds(self, site: str) -> bool:
        return site == "resid_pre" or site in self.sites

    def site(self, name: str) -> Tensor:
        """UserError: a site that was not recorded."""
        if not self.holds(name):
            raise UserError(f"the recording lacks {name}: record(subject, inputs, sites)")
        return self.resid_pre if name == "resid_pre" else self.sites[name]


@dataclass(eq=False, repr=False)
class Recording:
    """A clean forward with what replaying needs. It can stand for its inputs in every sweep, which then runs no other.

    mask: the real positions. last: the last one of each example. resid: the residual behind the last layer, there.
    obstacle: why these layers cannot be replayed, "" where they can. edits: the open blocks of `tracing` that it was
    made in, outermost first; sweeps of it run whole forwards in the same ones.
    """

    subject: Subject
    inputs: dict[str, Any]
    mask: Bool[Tensor, "b p"]
    last: Int[Tensor, " b"]
    layers: list[LayerRecord]
    resid: Float[Tensor, "b d"]
    obstacle: str = ""
    edits: tuple[Block, ...] = ()

    def __repr__(self) -> str:
        b, p = self.mask.shape
        sites = ", ".join(dict.fromkeys(("resid_pre", *(site for layer in self.layers for site in layer.sites))))
        dtype = str(self.resid.dtype).removeprefix("torch.")
        edited = f", inside {len(self.edits)} edit(s)" if self.edits else ""
        layers = f"{len(self.layers)} layers, {b} examples × {p} positions"
        return f"Recording({self.subject.name}: {layers}, {sites}, {dtype}, {self.resid.device}{edited})"

    @property
    def final(self) -> Bool[Tensor, "b p"]:
        """The last real position of each example, as a mask."""
        return mark_last(self.mask, self.last)

    @property
    @torch.no_grad()
    def logits(self) -> Float[Tensor, "b vocab"]:
        """The clean logits at the last real position."""
        return self.subject.unembed(self.subject.norm(self.resid)).float()

    @property
    def has_image(self) -> bool:
        return any(name.startswith("pixel_values") for name in self.inputs)

    @cached_property
    def everywhere(self) -> Positions:
        """All positions, padding included."""
        return positions_of(torch.ones_like(self.mask), self.last)

    @cached_property
    def sees(self) -> Bool[Tensor, "b p p"]:
        """Which columns a row may read, in any layer and head."""
        masks = list({id(layer.allowed): layer.allowed for layer in self.layers}.values())
        if any(layer.whole for layer in self.layers):
            masks.append(_all_before(self.mask))
        shape = len(self.mask), *self.mask.shape[1:] * 2
        return torch.stack([m.any(1).to(self.mask.device).expand(shape) for m in masks]).any(0)

    @cached_property
    def useful(self) -> Bool[Tensor, "b p"]:
        """The positions that the last one reads, directly or through others."""
        return closure(self.final, self.sees.transpose(1, 2))

    def require_same_edits(self) -> None:
        """UserError where other edits act now than did while this was recorded."""
        if self.edits != self.subject.active_edits:
            now, then = len(self.subject.active_edits), len(self.edits)
            raise UserError(
                f"the recording was made inside {then} edit(s) of the model, but {now} act now, or others: "
                "record and sweep inside the same block of tracing"
            )


@torch.no_grad()
def record(subject: Subject, inputs: Mapping[str, Any] | Batch, sites: Iterable[str] = ()) -> Recording:
    """Run `inputs` once and keep residuals, keys, values and masks; and `sites` (z, mlp_post, …) on demand.

    Inside an edit it is a recording of the edited model. UserError: a site that cannot be changed, and so not swept.
    """
    sites = list(sites)
    for site in sites:
        require_writable(site, "record")
    arguments = subject.prepare(inputs)
    ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    layers: list[LayerRecord] = []
    masks: dict[Any, tuple[Tensor | None, Tensor]] = {}
    obstacles: list[str] = []
    written: list[Tensor] = []

    def keep(layer: Layer) -> None:
        call = layer.attention if layer.attends else None
        obstacles.append(_obstacle(layer, call))
        # The mask is kept beside, so that its id stays its own.
        if call is None:
            _, allowed = masks.setdefault(None, (None, _all_before(real)))
        else:
            _, allowed = masks.setdefault(_same_mask(call), (call.mask, call.allowed()))
        before = written[0].to(layer.resid_pre.device) if written else layer.resid_pre
        # In nearly all families it is the same tensor, and a GPU need not be waited for to compare.
        same = before is layer.resid_pre or torch.equal(before, layer.resid_pre)
        added = None if same else layer.resid_pre - before
        written[:] = [layer.resid_post]
        held = {s: layer.written(s) for s in sites if s != "resid_pre" and not layer.lacks(SITES[s])}
        key, value = (own_storage(call.key), own_storage(call.value)) if call else (torch.zeros(0), torch.zeros(0))
        whole = hybrid.runs_whole(layer.module)
        mixed = None if call else _mixed(layer)
        layers.append(LayerRecord(layer.resid_pre, key, value, allowed, layer.arguments, added, held, whole, mixed))

    edits = subject.active_edits
    with tracing(subject, keep):
        subject.forward(arguments)
    last = last_positions(ids, mask)
    # What edits do to some rows of some variants is theirs to know: they act in whole forwards.
    obstacle = "it is edited" if edits else next(filter(None, obstacles), "")
    return Recording(subject, arguments, real, last, layers, at_last(written[0], last), obstacle, edits)


def _mixed(layer: Layer) -> Tensor | None:
    try:
        return layer.written("attn_out")
    except SiteError:  # a block that is an MLP alone
        return None


def is_mask(name: str) -> bool:
    """Whether a block's argument is a mask: some blocks take one for their attention and one for their mixer."""
    return name.endswith(MASK)


def _same_mask(call: AttentionCall) -> Any:
    """Layers with the same mask object share one `allowed`."""
    return id(call.mask) if call.mask is not None else (call.causal, call.query.device)


def _all_before(real: Bool[Tensor, "b p"]) -> Bool[Tensor, "b 1 p p"]:
    """What a state over all earlier rows reads."""
    n = real.shape[1]
    return torch.ones(n, n, dtype=torch.bool, device=real.device).tril() & real[:, None, None]


def _obstacle(layer: Layer, call: AttentionCall | None) -> str:
    """Why a layer cannot be replayed, "" where nothing is known against it."""
    masks = {name for name in layer.arguments if is_mask(name)} if hybrid.runs_whole(layer.module) else {MASK}
    tensors = [name for name, value in layer.arguments.items() if isinstance(value, Tensor)]
    strange = set(tensors) - {"hidden_states", *masks, *PER_POSITION}
    strange |= {name for name, value in layer.arguments.items() if isinstance(value, MutableMapping) and value}
    if strange:
        return f"its layers take {', '.join(sorted(strange))}"
    if layer.resid_pre.ndim != 3:
        return "its residual stream has more than three axes"
    if call is not None and call.indexed:
        return "an indexer chooses which keys its attention reads, from all rows"
    if call is not None and (call.bias is not None or (call.mask is not None and call.mask.dtype != torch.bool)):
        return "its attention adds a bias to the scores"
    return ""
