"""Redundant layers: which could be left out, and whether a cheap number tells which

How far each block, attention and MLP turns the residual, what leaving it out costs, one at a time and several in three
orders, where inner activations are large, and what of it is needed for the image alone. Tables: importance, skips,
curves, predictions, energies, heads, entropy, vision, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...data.example import Example
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.changed import changed
from ..common.claims import Claim, Statement
from ..common.frames import held_out
from ..common.tested import judged
from ._importance import INSIDE, KINDS, NULLS, SHARES, energies, importance
from ._redundancy_findings import findings
from ._redundancy_tables import TABLES
from ._skips import LEFT_OUT, ORDERS, READ, Skips, curves, layers_of, singles

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "Which layers could be left out, and does any cheap number tell which?"
PAPER = "arXiv 2406.15786, 2407.15516, 2404.05657 (NOSE), 2407.05690 (TransAct), 2412.12785"
FIT_EXAMPLES = 16
CLAIMS = (
    Statement(
        "importance predicts loss",
        "What turns the residual little can be left out: over attention layers and MLPs together, the rank correlation "
        "of 1 − cos with what leaving the module out costs is above 0.5, and above that of an orthogonal update of "
        "equal norm.",
        "arXiv 2406.15786, style; threshold and control are this project's",
        threshold=0.5,
    ),
    Statement(
        "deep attention is redundant",
        "Attention of deep layers is redundant: leaving out one attention layer of the deeper half costs less than one "
        "of the other half (difference of the loss below 0), and by more than for MLPs.",
        "arXiv 2406.15786, style; the comparison with MLPs is added here",
        side="below",
    ),
    Statement(
        "attention before MLPs",
        "Attention is more redundant than MLPs: with the least important third of them left out, attention costs less "
        "than MLPs do (difference of the loss below 0), and by more than with a random third.",
        "arXiv 2406.15786, style; the random third is added here",
        side="below",
    ),
    Statement(
        "a third of the attention",
        "A third of the attention layers is not needed: the deepest third left out costs less than 0.1 nats a token, "
        "and less than a random third.",
        "arXiv 2407.15516, style (33 % of attention layers, 1.8 points); the bar in nats is this project's",
        threshold=0.1,
        side="below",
    ),
    Statement(
        "the least important third",
        "Importance tells which attention can go: the third of least 1 − cos left out costs less than a random third "
        "(difference of the loss below 0), and less than the deepest third.",
        "arXiv 2406.15786, style; both comparisons are this project's",
        side="below",
    ),
    Statement(
        "entropy predicts loss",
        "Attention that does not change the entropy of the last features can go: the rank correlation of transfer "
        "entropy with the cost of leaving a layer's attention out is above 0.5, and above that of the update's norm.",
        "arXiv 2404.05657 (NOSE), style; threshold and control are this project's",
        threshold=0.5,
    ),
    Statement(
        "few dimensions of z",
        "Inner activations are concentrated: three sixteenths of the dimensions of z hold more than half of its energy "
        "without the first token, and more than if all were equal.",
        "arXiv 2407.05690 (TransAct), style (768 of 4096 are kept); the threshold is this project's",
        threshold=0.5,
    ),
    Statement(
        "layers for vision",
        "Some layers matter for the image: of the quarter whose loss costs most with the image over that without it, "
        "chosen on one half of the groups, the excess on the other half is above 0, and above that of other layers.",
        "arXiv 2412.12785, style (tuning a quarter of the layers); the blind prompt is added here",
    ),
)


@dataclass(frozen=True)
class Options:
    """draws: random orders of the layers. positions: next tokens of a text that are read. blind: whether the prompts
    are also run without their images, where they have any.
    """

    draws: int = 5
    positions: int = 32
    blind: bool = True


class Learned(NamedTuple):
    """importance: for each of KINDS 1 − cos by layer, the mean over held-out examples; None in layers without."""

    importance: Sequence[Sequence[float | None]] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "A module is left out by adding nothing where it writes; the layers above read what is left. Loss: of a prompt "
        "with an answer −ln p of the answer's tokens (its first where it is not written yet), of a text that of the "
        f"next token at {options.positions} evenly spaced places. Importance: 1 − cos of the residual before and "
        "after, mean over tokens without the first; the order by importance was learned on "
        f"{held_out(fitted_on)}. Controls: an orthogonal update of equal norm; the module's mean update over the "
        "tokens from the second to this one in its place (the first token keeps its own); "
        f"{options.draws} random orders. Transfer entropy: how far Σ ln of the standard deviation over prompts, of the "
        "channels at the last position behind the final norm, changes where a layer's attention is left out."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Importance on held-out examples."""
    found: list[list[Tensor]] = [[] for _ in range(subject.n_layers)]
    for batch in batches:

        def keep(layer: Layer, batch: Batch = batch) -> None:
            found[layer.index].append(importance(layer, batch)[..., 0].cpu())

        with tracing(subject, keep):
            subject.forward(batch)
    means = torch.stack([torch.cat(rows).nanmean(0) for rows in found], 1)
    return Learned([[None if value != value else value for value in kind] for kind in means.tolist()])


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """turned [b, KINDS, NULLS], energy [b, INSIDE, SHARES], head energy [b, h]: see `_importance`."""
    energy, heads = energies(layer, batch)
    return {"turned": importance(layer, batch), "energy": energy, "head energy": heads}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows, all of READ at the end: "clean" [b], "skip|<kind>" and "mean|<kind>" [b, layer], "curve|<kind>" [b, ORDERS,
    LEFT_OUT], "blind clean", "blind|block"; "features", "features|skip" and "features|mean" [b(, layer), d]: the last
    position behind the final norm, with each layer's attention left out and replaced.
    """
    skips = Skips(subject, batch, how.options.positions)
    values, features = skips.read([{}])
    kept |= {"clean": values[0], "features": features[0]}
    for kind in KINDS:
        if not layers_of(subject, kind):
            continue
        for name in ("skip", "mean"):
            kept[f"{name}|{kind}"], states = singles(skips, kind, replaced=name == "mean")
            if kind == "attention":
                kept[f"features|{name}"] = states
        known = enumerate(how.learned.importance[KINDS.index(kind)])
        turned = {layer: value for layer, value in known if value is not None}
        kept[f"curve|{kind}"] = curves(skips, kind, turned, how.options.draws)
    return kept | (_blind(subject, batch, how) if how.options.blind else {})


def _blind(subject: Any, batch: Batch, how: How) -> dict[str, Tensor]:
    """Clean and with one block left out, of the prompts without their images; nothing where there are none."""
    made = changed(subject, batch, _without_images)
    if made is None:
        return {}
    skips = Skips(subject, made.batch, how.options.positions)
    clean, without = skips.read([{}])[0][0], singles(skips, "block")[0]
    return {"blind clean": made.spread(clean), "blind|block": made.spread(without)}


def _without_images(example: Example) -> Example | None:
    texts = tuple(segment for segment in example.segments if isinstance(segment.content, str))
    return replace(example, segments=texts, boxes={}) if example.images and texts else None


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    by_layer = len(KINDS) * (len(NULLS) + 2 * len(READ)) + len(INSIDE) * len(SHARES) + subject.n_heads
    by_layer += len(READ) + 2 * subject.d_model
    return subject.n_layers * by_layer + subject.d_model + len(KINDS) * len(ORDERS) * len(LEFT_OUT) * len(READ)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: a recording with what modules write, and a stack of variants."""
    count = len(LEFT_OUT) * (options.draws + 2) + subject.n_layers
    return (
        costs.recording(subject, batch, positions, ("attn_out", "mlp_out"))
        + costs.variants(subject, count, batch, positions, positions)
        + costs.logits(subject, batch * options.positions, 3)
    )


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
