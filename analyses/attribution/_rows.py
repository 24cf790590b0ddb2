"""Rows of one example: maps of every method, what an answer keeps as words are taken away, and what heads attend to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.intervene.mixtures import mean_word
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch, one_by_one
from ..common.controls import permutations
from ..common.ragged import stacked
from ..common.thumbnails import picture_rows
from ._game import KL, TARGETS, Game, game_of
from ._methods import ABLATION, BY_FORWARDS, BY_GRADIENT, IG, SHAPLEY, attributions

ATTENTION, WEIGHTED = "attention", "attention × value"
ORDERED = (IG, ABLATION, SHAPLEY)  # Captum's methods whose order is followed, beside both kinds of attention
ORDERS = ("deletion", "insertion")
RANDOM = "a random order"
WORD, BLOCK = 0, 1
PART = "/"  # between the parts of a row's name


def attention_rows(layer: Layer, batch: Batch) -> dict[str, Tensor | None]:
    """What the last position gives to each real one, [b, h, p], aligned; and the same times ‖v W_O‖ of that one.

    The second is NaN where a gate or a norm stands between the values and W_O; both are None without heads.
    """
    if not layer.attends:
        return {ATTENTION: None, WEIGHTED: None}
    pattern = layer.pattern(batch.last.to(layer.resid_pre.device)[:, None])[:, :, 0]
    rows = {ATTENTION: pattern, WEIGHTED: pattern * value_sizes(layer)}
    return {name: batch.aligned(value.transpose(1, 2)).transpose(1, 2) for name, value in rows.items()}


def value_sizes(layer: Layer) -> Float[Tensor, "b h p"]:
    """‖v W_O‖ of each head and key: by v (W_O W_Oᵀ) v, so that nothing of width d is made of every head."""
    values = layer.v.float()
    weight = layer.subject.W_O(layer.index).to(values.device).float()
    if layer.gated:
        return values.new_full((len(values), len(weight), values.shape[1]), torch.nan)
    values = values.repeat_interleave(len(weight) // values.shape[2], 2)
    gram = weight @ weight.transpose(1, 2)
    return torch.einsum("bphi,hij,bphj->bhp", values, gram, values).clamp_min(0).sqrt()


def rows_of_batch(subject: Any, batch: Batch, kept: Mapping[str, Tensor], options: Any) -> dict[str, Tensor]:
    """Rows of every example, each made alone; NaN behind an example's last feature."""
    mean = mean_word(subject)
    rows = [
        _of_example(subject, single, {name: value[i] for name, value in kept.items()}, mean, options)
        for i, single in enumerate(one_by_one(subject, batch))
    ]
    whole = stacked(rows)
    if batch.where("image").any(1).all():
        whole |= {name: value for name, value in picture_rows(batch).items() if name != "cell"}
    return whole


def _of_example(
    subject: Any, batch: Batch, attention: Mapping[str, Tensor], mean: Tensor, options: Any
) -> dict[str, Tensor]:
    game, alone = game_of(subject, batch, mean, options)
    maps = _maps(game, options, batch.example_ids[0])
    looks, features = _looks(batch, game, attention), game.features
    ends = game.values(torch.stack([torch.ones(len(features.positions)), torch.zeros(len(features.positions))]))
    rows = {PART.join(("map", *name)): value for name, value in maps.items()}
    rows |= {PART.join(("look", name)): value for name, value in looks.items()}
    rows |= _saliency(game, batch)
    rows |= _curves(game, maps, looks, options, batch.example_ids[0])
    rows |= {"ends": ends[:, :KL], "alone": torch.tensor(float(alone)), "kind": _kinds(game)}
    rows |= {"owner": features.owner.float(), "ids": batch.inputs["input_ids"][0].cpu().float()}
    return rows | {"cells": features.cells.flatten().float()} | _marked(batch, game)


def _maps(game: Game, options: Any, key: str) -> dict[tuple[str, str], Tensor]:
    """By (method, target) what each feature gives, [f]. Paths along gradients are walked for the first target alone."""
    maps = {}
    for target, name in enumerate(TARGETS):
        game.target = target
        for method in (*BY_GRADIENT, *BY_FORWARDS) if target == 0 else BY_FORWARDS:
            maps[method, name] = attributions(game, method, options, key)
    game.target = 0
    return maps


def _looks(batch: Batch, game: Game, attention: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention summed over features, [layer, h, 1 + f]: the first token's own stands in front."""
    length = batch.mask.shape[1]
    found = {}
    for name in (ATTENTION, WEIGHTED):
        values = attention[name][..., :length]
        found[name] = torch.cat([values[..., :1], game.features.sums(values.nan_to_num()) + values[..., :1] * 0], -1)
    return found


def _saliency(game: Game, batch: Batch) -> dict[str, Tensor]:
    """KL(original ‖ without it) of the first token and of each feature, [1 + f], nats."""
    count = len(game.features.positions)
    alone = game.values(1 - torch.eye(count))[:, KL]
    return {"saliency": torch.cat([_without_first(game, batch)[None], alone])}


def _without_first(game: Game, batch: Batch) -> Tensor:
    """The same of the first token, the mean word in its place; that of its feature where it has one."""
    if game.features.first >= 0:
        return game.values(1 - torch.eye(len(game.features.positions)))[game.features.first, KL]
    first = torch.zeros(1, batch.mask.shape[1], dtype=torch.bool)
    first[0, 0] = True
    return replace(game.mixture, features=first).values(torch.zeros(1, 1))[0, KL]


def _curves(
    game: Game, maps: Mapping[tuple[str, str], Tensor], looks: Mapping[str, Tensor], options: Any, key: str
) -> dict[str, Tensor]:
    """log p(answer) as the highest features of each map go (deletion) or come first (insertion), [points + 1]."""
    orders = {method: maps[method, TARGETS[0]] for method in ORDERED}
    orders |= {name: values[..., 1:].nanmean((0, 1)) for name, values in looks.items()}
    rows = {}
    for method, values in orders.items():
        if values.isnan().any():  # a family whose values cannot be weighed
            continue
        order = values.argsort(descending=True, stable=True)
        for kind in ORDERS:
            rows[PART.join(("curve", kind, method))] = curve(game, order, kind, options.points)
    drawn = permutations(len(game.features.positions), [f"{key} order {i}" for i in range(options.draws)])
    for kind in ORDERS:
        # What a random order deletes, its reverse inserts: both ask for the same sets.
        order_of = (lambda one: one) if kind == "deletion" else (lambda one: one.flip(0))
        several = [curve(game, order_of(one), kind, options.points) for one in drawn]
        rows[PART.join(("curve", kind, RANDOM))] = torch.stack(several).mean(0)
    return rows


def curve(game: Game, order: Tensor, kind: str, points: int) -> Float[Tensor, "points + 1"]:
    """log p(answer) after 0, 1/points, … 1 of the features in this order."""
    count, present = len(order), []
    for share in range(points + 1):
        moved = torch.zeros(count)
        moved[order[: round(share * count / points)]] = 1.0
        present.append(1 - moved if kind == "deletion" else moved)
    return game.values(torch.stack(present))[:, 0]


def _kinds(game: Game) -> Tensor:
    kinds = torch.full((len(game.features.positions),), float(BLOCK))
    kinds[: game.features.words] = WORD
    return kinds


def _marked(batch: Batch, game: Game) -> dict[str, Tensor]:
    """Which features touch each named part of the prompt, [f]; of every name that the example has."""
    features = game.features.positions
    found = {}
    for name, where in batch.marks.items():
        touched = (features & where[0]).any(1)
        if touched.any():
            found[PART.join(("marked", name))] = touched.float()
    return found


def areas(curves: np.ndarray) -> np.ndarray:
    """The mean height of curves [n, points + 1], by trapezoids."""
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2
