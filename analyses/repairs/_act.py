"""Attention calibration: columns that take too much attention lose a part of it to all others, in chosen heads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.interventions import EditAttention, Patch, Variant
from ...probes.intervene.measures import Measure
from ...probes.intervene.positions import Positions
from ...probes.intervene.recording import Recording, record
from ...probes.intervene.sweep import variant_sweep
from ...probes.model.attention import AttentionCall, Edit
from ...probes.observe.decode_tracking import following
from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.image_ablation import real_positions
from .. import metrics
from ..common.columns import column_counts
from ..common.controls import layer_keys, random_positions

Head = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The hidden sinks of the last prompt. sinks: layer -> Bool[b, h, n]."""

    sinks: dict[int, Bool[Tensor, "b h n"]] = field(default_factory=dict)


def default_heads(subject: Any) -> list[Head]:
    """All heads of the layers 2 … L−2."""
    layers = [layer for layer in subject.decoder.attending if layer in range(2, subject.n_layers - 1)]
    return [(layer, head) for layer in layers for head in range(subject.n_heads)]


@contextmanager
def act(
    subject: Any,
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    per_token: float | None = None,
    heads: Collection[Head] | None = None,
    columns: str = "sinks",
    seed: int | Sequence[str] = 0,
) -> Iterator[Calibrated]:
    """While active, in the chosen heads every column with a mean attention above `threshold` is multiplied by beta.

    What becomes free goes to the row's other columns in proportion; rows keep their sum. The column means are those of
    the prompt's map, over the real queries that see a column (columns seen by fewer than 8 are left out, and so is the
    first token); generated tokens keep the prompt's sinks. per_token: the threshold is per_token / N instead.
    heads: (layer, head) pairs, by default all of layers 2 … L−2; `act_effects` measures which ones help.
    columns: "sinks", or as a control "random": as many other columns of each head. seed: one number for all prompts,
    or one key for each. Prompts need no image.
    Source: arXiv 2406.15765 (beta 0.4; threshold 0.1 in the scripts, 5/N in the paper). The released code takes each
    generated row alone and spares the first column that it finds, whatever that is; here the prompt's sinks are kept
    and the first token is spared. UserError: as `following`.
    """
    by_layer = _by_layer(subject, beta, heads, columns)
    found, rule = Calibrated(), _Rule(threshold, per_token, columns, seed)

    def edit_of(index: int) -> Edit:
        def edit(call: AttentionCall) -> AttentionCall:
            if shown.asleep:
                return call
            if shown.prompt:
                found.sinks[index] = rule.sinks(call, shown.real, index, by_layer[index])
            return calibrating(call, found.sinks[index][:, :, shown.offset(call) :], beta)

        return edit

    with following(subject, needs_image=False) as shown, tracing(subject, edits={i: edit_of(i) for i in by_layer}):
        yield found


def act_variant(
    base: Recording,
    *,
    beta: float = 0.4,
    threshold: float = 0.1,
    per_token: float | None = None,
    heads: Collection[Head] | None = None,
    columns: str = "sinks",
    seed: int | Sequence[str] = 0,
) -> tuple[Variant, Calibrated]:
    """What `act` does to recorded prompts, as interventions by layer. Column means are over all rows: all are run."""
    by_layer = _by_layer(base.subject, beta, heads, columns)
    found, rule = Calibrated(), _Rule(threshold, per_token, columns, seed)

    def edit_of(index: int) -> EditAttention:
        def edit(call: AttentionCall, rows: Positions) -> AttentionCall:
            found.sinks[index] = rule.sinks(call, base.mask, index, by_layer[index])
            return calibrating(call, found.sinks[index], beta)

        return EditAttention(None, edit, every_row=True)

    return {index: (edit_of(index),) for index in by_layer}, found


def _by_layer(subject: Any, beta: float, heads: Collection[Head] | None, columns: str) -> dict[int, Bool[Tensor, " h"]]:
    """The chosen heads of each layer that has some. UserError: beta or a head out of range."""
    if not 0 <= beta <= 1:
        raise UserError(f"beta = {beta} is outside 0…1")
    if columns not in ("sinks", "random"):
        raise ValueError(f"columns are 'sinks' or 'random', not {columns!r}")
    pairs = set(default_heads(subject) if heads is None else heads)
    if any(not (0 <= a < subject.n_layers and 0 <= b < subject.n_heads) for a, b in pairs):
        raise UserError(f"heads are (layer, head) pairs within {subject.n_layers} × {subject.n_heads}")
    chosen = {layer: torch.zeros(subject.n_heads, dtype=torch.bool) for layer in sorted({layer for layer, _ in pairs})}
    for layer, head in pairs:
        chosen[layer][head] = True
    return chosen


class _Rule(NamedTuple):
    """Which columns are calibrated; see `act`."""

    threshold: float
    per_token: float | None
    columns: str
    seed: int | Sequence[str]

    def sinks(
        self, call: AttentionCall, real: Bool[Tensor, "b n"], index: int, heads: Bool[Tensor, " h"]
    ) -> Bool[Tensor, "b h n"]:
        """The columns of a layer's chosen heads, by what its call reads."""
        sinks, eligible = hidden_columns(call, real, self.threshold, self.per_token)
        sinks = sinks & heads.to(sinks.device)[:, None]
        if self.columns == "random":
            return random_positions(sinks, eligible, layer_keys(self.seed, len(sinks), index))
        return sinks


def hidden_columns(
    call: AttentionCall, real: Bool[Tensor, "b n"], threshold: float, per_token: float | None = None
) -> tuple[Bool[Tensor, "b h k"], Bool[Tensor, "b h k"]]:
    """A layer's hidden sinks by head, and the columns that could have been; a few examples' maps alive at a time."""
    real = real.to(call.query.device)
    found, could = [], []
    for part, pattern in call.patterns():
        sums, seen = column_counts(call, part, pattern, real[part][:, None])
        mean = sums[:, :, 0] / seen
        limit: Any = threshold if per_token is None else per_token / real[part].sum(1)
        found.append(metrics.are_hidden(mean, seen, real[part], threshold=limit))
        could.append(metrics.are_hidden(torch.ones_like(mean), seen, real[part], threshold=0.0))
    return torch.cat(found), torch.cat(could)


def calibrating(call: AttentionCall, sinks: Bool[Tensor, "b h m"], beta: float) -> AttentionCall:
    """The call with every row calibrated."""
    sinks = sinks.to(call.query.device)
    return call.edited(
        pattern_edit=lambda pattern, rows, part: metrics.calibrate_sinks(pattern, sinks[part], beta, out=pattern)
    )


@torch.no_grad()
def act_effects(
    subject: Any,
    inputs: Any,
    measure: Measure,
    *,
    heads: Collection[Head] | None = None,
    beta: float = 0.4,
    threshold: float = 0.1,
    per_token: float | None = None,
) -> dict[Head, Float[Tensor, "b"]]:
    """What calibrating one head alone does to a measure of the last logits, per example: calibrated − plain.

    One forward is kept; the heads ride as variants from their own layer on (`probes.replay`). A head without a hidden
    sink in these prompts changes nothing and costs nothing. heads: by default all of layers 2 … L−2.
    """
    pairs = sorted(default_heads(subject) if heads is None else heads)
    given = subject.prepare(inputs)
    real, replaced = real_positions(given), {}

    def keep(layer: Layer) -> None:
        mine = [head for index, head in pairs if index == layer.index]
        if mine:
            sinks, _ = hidden_columns(layer.attention, real, threshold, per_token)
            if bool(sinks[:, mine].any()):
                replaced[layer.index] = (calibrating(layer.attention, sinks, beta).output(), sinks.any(2).any(0))

    with tracing(subject, keep):
        recording = record(subject, given, ("attn_z",))
    moved = [(index, head) for index, head in pairs if index in replaced and bool(replaced[index][1][head])]
    variants = [{index: (Patch("attn_z", real, replaced[index][0], (head,)),)} for index, head in moved]
    found = {pair: torch.zeros(len(real)) for pair in pairs}
    if variants:
        sweep = variant_sweep(recording, variants, real, measure=measure)
        found |= {pair: value - sweep.clean for pair, value in zip(moved, sweep.values, strict=True)}
    return found
