"""Interventions in whole forwards: in a block of any forwards, generation included, and as the slow way of a replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from ...data.errors import UserError
from ..model.attention import AttentionCall, Edit
from ..model.edits import Rewrite
from ..model.subject import last_positions
from ..observe.layer import Layer
from ..observe.tracing import tracing
from ..prompts.batch import Batch
from ..sites import SITES
from .interventions import CALL, EDGES, QKV, Knockout, Variant, with_positions
from .layer_parts import with_changed_qkv
from .positions import Positions, at_last, positions_of
from .recording import Recording

if TYPE_CHECKING:
    from ..model.subject import Subject

# What is changed inside the attention, not in a site's tensor.
INSIDE = (CALL, EDGES, *QKV.values())


@contextmanager
def intervening(
    subject: Subject, interventions: Variant, inputs: Mapping[str, Any] | Batch, *, generated: bool = False
) -> Iterator[None]:
    """In the block the interventions, by layer, act in every forward of `inputs`, and in `generate` with its cache.

    inputs: the batch that the interventions' positions are of. generated: whether the tokens generated behind it count
    as positions where they act; then values must be the same at every position. A generated token is never a source of
    a knockout. Of edits of the attention `TurnByBase` acts on generated tokens always, `WeighKeys` where asked, any
    other never. UserError: a layer or site that does not exist; a forward of other prompts, or of a part of them.
    """
    read = subject.prepare(inputs)
    last = last_positions(read["input_ids"], read.get("attention_mask"))
    everywhere = torch.ones_like(read["input_ids"], dtype=torch.bool)
    forward = _Forward(positions_of(everywhere, last), generated)
    handle = subject.model.register_forward_pre_hook(forward.begin, with_kwargs=True)
    try:
        with tracing(subject, edits=_edits(interventions, forward), rewrites=_rewrites(interventions, forward)):
            yield
    finally:
        handle.remove()


@torch.no_grad()
def full_forward(
    recording: Recording, variant: Variant, on_layer: Callable[[Layer], Any] | None = None
) -> Float[Tensor, "b d"]:
    """The same as `replay`, the slow way: a whole forward with the variant's changes, watched by `on_layer`."""
    resid: list[Tensor] = []

    def keep(layer: Layer) -> None:
        if on_layer is not None:
            on_layer(layer)
        if layer.index == len(recording.layers) - 1:
            resid.append(at_last(layer.resid_post, recording.last))

    forward = _Forward(recording.everywhere)
    with tracing(recording.subject, keep, _edits(variant, forward), _rewrites(variant, forward)):
        recording.subject.forward(recording.inputs)
    return resid[0]


def positions_of_all(tensor: Tensor) -> Positions:
    """Every position of a tensor [b, p, ...]."""
    everywhere = torch.ones(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    return positions_of(everywhere, torch.full((len(tensor),), tensor.shape[1] - 1, device=tensor.device))


@dataclass(eq=False)
class _Forward:
    """The forward that is running reads the last `rows` of `total` positions, of which the first are the prompt's."""

    prompt: Positions
    generated: bool = False
    rows: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        self.rows = self.total = self.prompt.chosen.shape[1]

    def begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model begins to read. UserError: other prompts than the interventions are of."""
        given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        read, cache = next(tensor for tensor in given if tensor is not None), kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        b, p = self.prompt.chosen.shape
        self.rows, self.total = read.shape[1], past + read.shape[1]
        if len(read) != b or self.total < p or 0 < past < p or (past == 0 and self.total != p):
            raise UserError(
                f"the interventions are of {b} prompts of {p} positions, but a forward reads {len(read)} of "
                f"{self.rows} behind {past}: give the batch that is run, and read prompts at once"
            )

    def apply(self, change: Any, tensor: Float[Tensor, "b k ..."]) -> Float[Tensor, "b k ..."]:
        """A change of a tensor over the last k positions: the rows, or for keys and values all that the cache holds."""
        n = max(0, self.prompt.chosen.shape[1] - self._before(tensor.shape[1]))
        parts = []
        if n:
            parts.append(change.apply(tensor[:, :n], self._end_of_prompt(n)))
        if tensor.shape[1] > n:
            behind = tensor[:, n:]
            everywhere = with_positions(change, None)
            parts.append(everywhere.apply(behind, positions_of_all(behind)) if self.generated else behind)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def attend(self, change: Any, call: AttentionCall) -> AttentionCall:
        """An edit of the attention: over the prompt, and behind it as it says itself."""
        if self.total == self.prompt.chosen.shape[1]:
            return change.function(call, self.prompt)
        self._before(call.key.shape[2])  # an error where the cache holds more than was read
        return change.continued(call, self.total, self.generated)

    def over(self, prompt: Bool[Tensor, "b p"], generated: bool, k: int) -> Bool[Tensor, "b k"]:
        """A mask over the last k positions, `generated` behind the prompt."""
        return pad(prompt, (0, self.total - prompt.shape[1]), value=generated)[:, self._before(k) :]

    def _before(self, k: int) -> int:
        """The positions before the last k: those that a layer with a window forgot."""
        if k > self.total:
            raise UserError("interventions need the default (dynamic) cache, which holds what was read and no more")
        return self.total - k

    def _end_of_prompt(self, n: int) -> Positions:
        if n == self.prompt.chosen.shape[1]:
            return self.prompt
        chosen = self.prompt.chosen.clone()
        chosen[:, :-n] = False
        return positions_of(chosen, self.prompt.last)


def _rewrites(interventions: Variant, forward: _Forward) -> dict[tuple[int, str], Rewrite]:
    """Changes of sites, for `tracing`."""
    places: dict[tuple[int, str], list[Any]] = {}
    for layer, changes in interventions.items():
        for change in changes:
            if change.site not in INSIDE:
                places.setdefault((layer, change.site), []).append(change)
    return {place: partial(_rewritten, changes, forward, place[1]) for place, changes in places.items()}


def _rewritten(changes: Sequence[Any], forward: _Forward, site: str, tensor: Tensor) -> Tensor:
    """The site's tensor, which some families fold into [b·s, d]."""
    heads = tensor.shape[-2:] if "head" in SITES[site].axes else tensor.shape[-1:]
    changed = tensor.reshape(len(forward.prompt.index), forward.rows, *heads)
    for change in changes:
        changed = forward.apply(change, changed)
    return changed.reshape(tensor.shape)


def _edits(interventions: Variant, forward: _Forward) -> dict[int, Edit]:
    """Changes inside the attention, for `tracing`."""
    inside = {i: [c for c in changes if c.site in INSIDE] for i, changes in interventions.items()}
    return {layer: partial(_attending, changes, forward) for layer, changes in inside.items() if changes}


def _attending(changes: Sequence[Any], forward: _Forward, call: AttentionCall) -> AttentionCall:
    """The call with what heads read instead, with edges removed, and as edits make it while the prompt is read."""
    reading = [(0, change) for change in changes if change.site in QKV.values()]
    knockouts = [change for change in changes if change.site == EDGES]
    call = with_changed_qkv(call, reading, len(call.query), forward.apply) if reading else call
    call = _knocked_out(call, knockouts, forward) if knockouts else call
    for change in changes:
        call = forward.attend(change, call) if change.site == CALL else call
    return call


def _knocked_out(call: AttentionCall, knockouts: Sequence[Knockout], forward: _Forward) -> AttentionCall:
    """The call with edges removed from its mask, and donors' keys and values behind its own."""
    allowed, key, value, donor_visible = call.allowed(), [call.key], [call.value], []
    columns, device = call.key.shape[2], allowed.device
    for knockout in knockouts:
        target = forward.over(knockout.target.to(device), forward.generated, forward.rows)[:, None, :, None]
        source = forward.over(knockout.source.to(device), False, columns)[:, None, None]
        if knockout.donor is not None:
            key.append(knockout.donor.key.to(call.key))
            value.append(knockout.donor.value.to(call.value))
            whole = pad(allowed, (forward.total - columns, 0))[..., : knockout.source.shape[1]]
            donor_visible.append(whole & target & knockout.source.to(device)[:, None, None])
        allowed = allowed & ~(target & source)
    return call.edited(key=torch.cat(key, 2), value=torch.cat(value, 2), mask=torch.cat([allowed, *donor_visible], -1))
