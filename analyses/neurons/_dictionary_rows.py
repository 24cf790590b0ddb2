"""What is measured of a dictionary: what is left of states, which features are active, what the model does with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...probes.intervene.interventions import Add, Apply, Variant
from ...probes.intervene.proofs import verify_edit
from ...probes.intervene.readout import states_of_variants
from ...probes.intervene.recording import Recording, record
from ...probes.model.head import in_rows
from ...probes.observe.capture import parse_site
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ..common.controls import example_keys, one_of_each
from ..common.labels import label_of
from ..common.losses import Scored, rows_before, scored
from ..common.places import text_without_first
from ._counts import has_neurons
from ._dictionary_features import STEERED, STRENGTHS
from ._dictionary_ways import WAYS, Ways


def counts(layer: Layer, batch: Batch, ways: Ways, site: str, learned: Any) -> dict[str, Tensor | None]:
    """Of ordinary tokens of text: "left" [b, way], squared distance from what a way tells; "total" [b], from the mean
    state; "tokens", "massive" [b], how many, and how many others; "active" [b], features active, summed over tokens;
    "fires" [b, feature] and, label by label, "on|features", "on|twins", "on|neurons" [b, label, unit], tokens at which
    a unit is active (NaN behind the last unit of a label).
    """
    kept = text_without_first(batch).to(layer.resid_pre.device)
    x = layer.written(parse_site(layer.subject, site).site.name)
    there = (kept & ways.ordinary(x)).float()
    fires = (ways.dictionary.encode(x) > 0).float()
    left = [_summed(x, ways.told(way, x), there) for way in WAYS]
    on = (there[:, None] @ fires)[:, 0]
    rows: dict[str, Tensor | None] = {"left": torch.stack(left[:-1], 1), "total": left[-1]}
    rows |= {"tokens": there.sum(1), "massive": kept.sum(1) - there.sum(1), "active": on.sum(1), "fires": on}
    rows |= {"on|features": units(on, learned.features), "on|twins": units(on, learned.twins)}
    if any(map(len, learned.neurons)) and has_neurons(layer.stack, layer.index):
        acts = (layer["mlp_pre"] > 0).float()
        rows["on|neurons"] = units((there[:, None] @ acts)[:, 0], learned.neurons)
    return rows


def _summed(x: Tensor, told: Tensor, there: Tensor) -> Float[Tensor, " b"]:
    return ((x.float() - told).square().sum(-1) * there).sum(1)


def units(values: Float[Tensor, "b unit"], chosen: Sequence[Sequence[int]]) -> Float[Tensor, "b label n"]:
    """Some units of each label, NaN where a label has fewer than another."""
    whole = values.new_full((len(values), len(chosen), max([1, *map(len, chosen)])), torch.nan)
    for i, own in enumerate(chosen):
        whole[:, i, : len(own)] = values[:, list(own)]
    return whole


def targets(batch: Batch, labels: Sequence[str]) -> Int[Tensor, " b"]:
    """The number of the label that each text is steered to: another than its own, drawn by its id; −1 without one."""
    found = []
    for example, key in zip(batch.examples, example_keys(batch.example_ids, 0), strict=True):
        own = label_of(example)
        others = [i for i, label in enumerate(labels) if label != own] if own in labels else []
        found.append(one_of_each(others, [key])[0] if others else -1)
    return torch.tensor(found)


def effects(subject: Any, batch: Batch, ways: Ways, site: str, learned: Any, options: Any) -> dict[str, Tensor]:
    """ "clean|loss" [b], nats a token; "replaced|loss" [b, way], with what a way tells in the place of the states;
    "target" [b], see `targets`; "clean|said" [b], the probability of the target's words; "replaced|said" [b, way];
    "steered|loss", "steered|said" [b, STEERED, STRENGTHS].
    """
    base, asked, at = record(subject, batch), scored(batch, options.positions), targets(batch, learned.labels)
    kept, place = text_without_first(batch), parse_site(subject, site)
    name, layer = place.site.name, int(place.layer or 0)
    plan: list[Variant] = [{0: ()}, *({layer: (Apply(name, kept, ways.instead(way)),)} for way in WAYS)]
    steers = options.steering and bool((at >= 0).any())
    if steers:
        plan += [{layer: (one,)} for one in _steering(name, kept, ways.beside["directions"], at)]
    loss, said = _read(base, asked, plan, _words(learned.words, at, base))
    ends = 1 + len(WAYS)
    rows = {"clean|loss": loss[:, 0], "replaced|loss": loss[:, 1:ends]}
    if steers:
        rows |= {"target": at.float(), "clean|said": said[:, 0], "replaced|said": said[:, 1:ends]}
        shape = len(STEERED), len(STRENGTHS)
        without = at < 0
        for what, values in (("loss", loss), ("said", said)):
            steered = values[:, ends:].unflatten(1, shape)
            rows[f"steered|{what}"] = steered.masked_fill(without[:, None, None], torch.nan)
    return rows


def _steering(name: str, kept: Bool[Tensor, "b p"], directions: Tensor, at: Tensor) -> list[Add]:
    """Each of STEERED at each of STRENGTHS, every text to its target."""
    own = directions[:, at.clamp_min(0)][:, :, None]
    return [Add(name, kept, strength * way) for way in own for strength in STRENGTHS]


def _words(words: Sequence[Sequence[int]], at: Tensor, base: Recording) -> list[list[int]]:
    return [list(words[i]) if i >= 0 else [] for i in at.tolist()]


@torch.no_grad()
def _read(
    base: Recording, asked: Scored, plan: Sequence[Variant], words: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "b v"], Float[Tensor, "b v"]]:
    """Of each variant the loss, and the probability of an example's words (NaN without), means over what is asked."""
    where = rows_before(asked, base)
    verify_edit(base, where, [plan[1]])
    loss, said = torch.full((2, len(asked.targets), len(plan)), torch.nan)
    for i, states in states_of_variants(base, where, plan, asked.places):
        for row, (own, targets, mine) in enumerate(zip(states, asked.targets, words, strict=True)):
            there = targets >= 0
            if bool(there.any()):
                reader = partial(_of_places, base.subject, mine)
                read = in_rows(reader, base.subject.model, own[there.to(own.device)], targets[there])
                loss[row, i], said[row, i] = read["loss"].mean(), read["said"].mean()
    return loss, said


def _of_places(subject: Any, words: Sequence[int], states: Tensor, targets: Tensor) -> dict[str, Tensor]:
    log_p = subject.unembed(subject.norm(states)).float().log_softmax(-1)
    targets = targets.to(log_p.device)
    said = log_p[:, list(words)].exp().sum(-1) if words else torch.full((len(log_p),), torch.nan)
    return {"loss": -log_p.gather(1, targets[:, None])[:, 0].cpu(), "said": said.cpu()}
