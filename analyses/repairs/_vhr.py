"""Head reinforcement: heads that the image moves most speak louder, from the first generated token on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.interventions import EditAttention, Variant
from ...probes.intervene.positions import Positions
from ...probes.intervene.recording import Recording
from ...probes.model.attention import AttentionCall, Edit
from ...probes.observe.decode_tracking import Shown, following
from ...probes.observe.tracing import tracing
from ...probes.prompts.image_ablation import hide_image
from .. import metrics
from ..common.controls import layer_keys, random_positions
from ._branches import branches_of

CHOICES = ("reinforced", "complement", "random", "spread")


@dataclass(frozen=True, eq=False)
class Reinforced:
    """What was chosen for the last prompt. heads: layer -> Bool[b, h]; divergence: layer -> VHD [b, h]."""

    heads: dict[int, Bool[Tensor, "b h"]] = field(default_factory=dict)
    divergence: dict[int, Tensor] = field(default_factory=dict)


def default_layers(n_layers: int) -> list[int]:
    """Layer 1 and the last 14 of 32, in proportion: what the paper takes for LLaVA-1.5."""
    return sorted({min(1, n_layers - 1), *range(n_layers - round(14 / 32 * n_layers), n_layers)})


@contextmanager
def vhr(
    subject: Any,
    *,
    alpha: float = 2.0,
    layers: Sequence[int] | None = None,
    image: str = "dropped",
    heads: str = "reinforced",
    positions: str = "last",
    filter: bool = True,
    blind_too: bool = True,
    seed: int | Sequence[str] = 0,
) -> Iterator[Reinforced]:
    """While active, the heads of `layers` whose z the image moves more than the layer's median are scaled by alpha.

    Chosen when a prompt is read, at the position of its first answer token, layer by layer: one batch holds the prompts
    with and without image, and layers already scaled are scaled in both branches (`blind_too`; else with image only).
    Kept for all tokens of that answer. image: "dropped" or "masked" in the blind branch. positions of the prompt that
    are scaled: "last" (so the first token on) or "all", which changes the keys and values of the prompt in later
    layers. filter: heads of outlying divergence and norm are not chosen. layers: by default `default_layers`.
    heads: "reinforced", or a control: "complement" (as many, of least divergence), "random" (as many of all heads),
    "spread" (all heads alike, by the factor that changes ‖attention output‖ as reinforcing does). seed: one number for
    all prompts, or one key for each.
    Source: arXiv 2412.13949. The paper does not say whether the blind branch and the prompt are scaled; its section
    3.2 can be read as every position of the prompt.
    UserError: as `following`.
    """
    chosen_layers, attending = _require(subject, layers, image, heads, positions), subject.decoder.attending
    made, choice = Reinforced(), _Choice(alpha, heads, positions, filter, blind_too, seed)

    def scale(index: int) -> Tensor:
        return torch.where(made.heads[index], alpha, 1.0)

    def choose(shown: Shown) -> None:
        made.heads.clear()
        branches = branches_of(subject, shown.inputs, image)

        def choosing(index: int) -> Edit:
            return lambda call: _choosing(subject, made, index, choice, call, branches.last)

        edits = {index: choosing(index) for index in chosen_layers}
        hide = hide_image(branches.hidden)
        hiding = dict.fromkeys(attending, hide) if image == "masked" else None
        with tracing(subject, edits=hiding), tracing(subject, edits=edits):
            subject.forward(branches.inputs)

    def reinforce(index: int) -> Edit:
        def edit(call: AttentionCall) -> AttentionCall:
            if shown.asleep:
                return call
            last = shown.last if shown.prompt else None
            return _scaled(subject, index, call, scale(index), last if positions == "last" else None, heads == "spread")

        return edit

    with following(subject, choose) as shown, tracing(subject, edits={i: reinforce(i) for i in chosen_layers}):
        yield made


def vhr_variant(
    both: Recording,
    *,
    alpha: float = 2.0,
    layers: Sequence[int] | None = None,
    heads: str = "reinforced",
    positions: str = "last",
    filter: bool = True,
    blind_too: bool = True,
    seed: int | Sequence[str] = 0,
) -> tuple[Variant, Reinforced]:
    """What `vhr` does to recorded `branches_of` prompts, as interventions by layer: at the last position alone, or at
    all. The second half of the examples, those without image, is there to choose by.
    """
    made, choice = Reinforced(), _Choice(alpha, heads, positions, filter, blind_too, seed)

    def edit_of(index: int) -> EditAttention:
        def edit(call: AttentionCall, rows: Positions) -> AttentionCall:
            return _choosing(both.subject, made, index, choice, call, rows.last)

        return EditAttention(both.final if positions == "last" else None, edit)

    return {index: (edit_of(index),) for index in _require(both.subject, layers, "dropped", heads, positions)}, made


def _require(subject: Any, layers: Sequence[int] | None, image: str, heads: str, positions: str) -> list[int]:
    """The layers that are edited. UserError: one that does not exist."""
    if heads not in CHOICES or image not in ("dropped", "masked") or positions not in ("last", "all"):
        raise ValueError(f"unknown heads {heads!r}, image {image!r} or positions {positions!r}")
    by_default = [layer for layer in default_layers(subject.n_layers) if layer in subject.decoder.attending]
    chosen_layers = by_default if layers is None else list(layers)
    if any(not 0 <= layer < subject.n_layers for layer in chosen_layers):
        raise UserError(f"layers {chosen_layers} are not all in 0…{subject.n_layers - 1}")
    return chosen_layers


class _Choice(NamedTuple):
    """Which heads are scaled, and where; see `vhr`."""

    alpha: float
    heads: str
    positions: str
    filter: bool
    blind_too: bool
    seed: int | Sequence[str]


def _choosing(
    subject: Any, made: Reinforced, index: int, choice: _Choice, call: AttentionCall, last: Int[Tensor, " b"]
) -> AttentionCall:
    """At one layer of both branches: compare them at their last rows, choose the heads, scale them."""
    alpha, heads, positions, filter, blind_too, seed = choice
    last = last.to(call.query.device)
    z = call.output()[torch.arange(len(last), device=last.device), last].float()
    seeing, blind = z.chunk(2)
    vhd = metrics.head_divergence(seeing, blind)
    best = metrics.reinforced_heads(vhd, blind.norm(dim=-1), filter=filter)
    made.divergence[index] = vhd
    made.heads[index] = _control(heads, best, vhd, layer_keys(seed, len(best), index))
    scale = torch.where(made.heads[index], alpha, 1.0)
    both = torch.cat([scale, scale if blind_too else torch.ones_like(scale)])
    return _scaled(subject, index, call, both, last if positions == "last" else None, heads == "spread")


def _control(heads: str, best: Tensor, vhd: Tensor, keys: Sequence[str]) -> Tensor:
    """The heads that are scaled instead of the best: as many in every layer and example."""
    if heads in ("reinforced", "spread"):
        return best
    if heads == "complement":
        rank = vhd.masked_fill(best, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
        return rank < best.sum(1, keepdim=True)
    # Of all heads, the best among them: they are half of a layer, so the others would be the complement again.
    every, none = torch.ones_like(best), torch.zeros_like(best)
    return random_positions(torch.cat([none, best], 1), torch.cat([every, none], 1), keys)[:, : best.shape[1]]


def _scaled(
    subject: Any, index: int, call: AttentionCall, scale: Tensor, last: Tensor | None, spread: bool
) -> AttentionCall:
    """The call with heads times `scale` [b, h]; last: at these positions alone."""
    scale = scale.to(call.query.device)[:, :, None]
    if spread:
        scale = _spread(subject, index, call, scale)
    if last is not None and call.query.shape[2] > 1:
        here = torch.arange(call.query.shape[2], device=scale.device) == last.to(scale.device)[:, None]
        scale = torch.where(here[:, None], scale, 1.0)
    return call.edited(head_scale=scale)


def _spread(subject: Any, index: int, call: AttentionCall, scale: Tensor) -> Tensor:
    """One factor for all heads, [b, h, q], with which the attention output gets the norm that `scale` gives it."""
    z, weight = call.output().float(), subject.W_O(index).to(call.query.device).float()
    plain = torch.einsum("bqhd,hdm->bqm", z, weight).norm(dim=-1)
    changed = torch.einsum("bqhd,hdm->bqm", z * scale.transpose(1, 2)[..., None], weight).norm(dim=-1)
    factor = torch.where(plain > 0, changed / plain, 1.0)
    return factor[:, None].expand(-1, z.shape[2], -1)
