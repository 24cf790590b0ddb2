"""What LoFiT learns of one task: scales of all heads, the heads that they choose, offsets of these and of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.tasks import passages
from ...probes.intervene.positions import at_last
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from .. import metrics
from ..common.asked import every_head
from ..common.controls import DIRECTION, HEADS, Head, example_keys, random_circuits, random_directions
from ..common.losses import of_forward, scored
from ._lofit_training import Edit, Prompts, editing, layers_of, learned_offsets, scaling, shifting

TOKENS, AT_ONCE = 64, 8  # of a passage of neutral text; prompts in a batch where nothing is learned
SHARE, LEAST = 0.03, 4  # of the heads that are chosen, and how many at least
PLAIN, SCALED, OURS = "as it is", "every head scaled", "chosen heads"
SECOND, MEANS = "heads of a second seed", "difference of means"
EDITS = (SCALED, OURS, SECOND, MEANS)
CONTROLS = (HEADS, DIRECTION)  # of the chosen heads: drawn, at every strength


def count_of(subject: Any, options: Any) -> int:
    """How many heads are chosen."""
    return options.top or max(LEAST, round(SHARE * len(every_head(subject))))


def strengths_of(subject: Any, scale: Float[Tensor, "layer h d"]) -> Float[Tensor, "layer h"]:
    """‖a‖ of every head; NaN where a layer has no such head."""
    norms = torch.full(scale.shape[:2], torch.nan)
    for layer in subject.decoder.attending:
        there = subject.decoder.heads(layer)
        norms[layer, :there] = metrics.edit_strength(scale[layer, :there])
    return norms


def offsets_of(
    subject: Any, prompts: Prompts, ours: Sequence[Head], second: Sequence[Head], options: Any
) -> Iterator[tuple[str, list[Head], Float[Tensor, "k d"]]]:
    """Every set of heads with what is learned for it; the difference of means where examples have a twin."""
    learned = learned_offsets(subject, prompts, ours, options)
    yield OURS, [*ours], learned
    yield SECOND, [*second], learned_offsets(subject, prompts, second, options, 1)
    for heads in random_circuits(ours, subject.n_heads, options.draws):
        yield HEADS, heads, learned_offsets(subject, prompts, heads, options)
    for draw in range(options.draws):
        yield DIRECTION, [*ours], directions(ours, learned, draw)
    twins = [example for example in prompts.examples if example.corrupt is not None]
    if twins:
        yield MEANS, [*ours], differences(subject, prompts._replace(examples=twins), ours, learned.norm(dim=-1))


def directions(heads: Sequence[Head], offsets: Float[Tensor, "k d"], draw: int) -> Float[Tensor, "k d"]:
    """For each head a random direction with the norm of its offset: as far, but nothing is learned of where to."""
    return random_directions(offsets, example_keys([f"{layer}.{head}" for layer, head in heads], draw))


def differences(
    subject: Any, prompts: Prompts, heads: Sequence[Head], lengths: Float[Tensor, " k"]
) -> Float[Tensor, "k d"]:
    """Mean z of the prompts minus that of their twins, at the last position of each head, with these norms."""
    twins = prompts._replace(examples=[example.corrupt for example in prompts.examples if example.corrupt])
    own, other = (_last_z(subject, one, heads) for one in (prompts, twins))
    pairs = zip(own.unbind(1), other.unbind(1), strict=True)
    found = torch.stack([metrics.difference_of_means(*pair) for pair in pairs])
    return torch.nn.functional.normalize(found, dim=-1) * lengths[:, None]


@torch.no_grad()
def _last_z(subject: Any, prompts: Prompts, heads: Sequence[Head]) -> Float[Tensor, "n k d"]:
    parts = []
    for start in range(0, len(prompts.examples), AT_ONCE):
        batch = prompts.batch(subject, range(start, min(start + AT_ONCE, len(prompts.examples))))
        found: dict[Head, Tensor] = {}

        def keep(layer: Layer, batch: Any = batch, found: dict[Head, Tensor] = found) -> None:
            for head in (head for of, head in heads if of == layer.index):
                found[layer.index, head] = at_last(layer.z, batch.last)[:, head].float().cpu()

        with tracing(subject, keep):
            subject.forward(batch)
        parts.append(torch.stack([found[head] for head in heads], 1))
    return torch.cat(parts)


def edits_of(learned: Any) -> dict[str, list[Edit]]:
    """The edits that something was learned for: one each, of HEADS one a draw."""
    scale = torch.tensor(learned.scale)
    found = {SCALED: [scaling(scale)]}
    for name, heads, values in learned.offsets:
        made = shifting(scale.shape, [(int(layer), int(head)) for layer, head in heads], torch.tensor(values))
        found.setdefault(name, []).append(made)
    return found


def stronger(edit: Edit, strength: float) -> Edit:
    """So many times the offset."""
    return edit._replace(offset=strength * edit.offset)


def neutral_losses(subject: Any, edits: Mapping[str, Sequence[Edit]], options: Any) -> tuple[list[str], dict]:
    """Documents of passages of novels, and their losses, nats a token: as the model is and under every edit (drawn
    ones: the mean over draws).
    """
    if not options.neutral:
        return [], {}
    made = passages.examples(options.neutral, 1, tokenizer=subject.tokenizer, tokens=TOKENS)
    losses: dict[str, list[float]] = {}
    for start in range(0, len(made), AT_ONCE):
        batch = subject.batch(made[start : start + AT_ONCE], template=passages.TEMPLATE, bos=passages.BOS)
        asked = scored(batch, TOKENS)
        losses.setdefault(PLAIN, []).extend(of_forward(subject, batch, asked)[:, 0].tolist())
        for name, several in edits.items():
            losses.setdefault(name, []).extend(_loss(subject, batch, asked, several).tolist())
    return [example.group for example in made], losses


def _loss(subject: Any, batch: Any, asked: Any, several: Sequence[Edit]) -> Float[Tensor, " b"]:
    found = []
    for edit in several:
        with editing(subject, edit, layers_of(edit)):
            found.append(of_forward(subject, batch, asked)[:, 0])
    return torch.stack(found).mean(0)
