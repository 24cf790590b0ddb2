"""Captum's methods on one example: integrated gradients, gradient × input, ablation, occlusion, Shapley sampling."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

from ._game import Game

IG, GRADIENT, ABLATION = "integrated gradients", "gradient × input", "feature ablation"
OCCLUSION, SHAPLEY = "occlusion of neighbours", "Shapley sampling"
BY_GRADIENT, BY_FORWARDS = (IG, GRADIENT), (ABLATION, OCCLUSION, SHAPLEY)
METHODS = (*BY_GRADIENT, *BY_FORWARDS)
WINDOW = 2  # words in a row, and blocks on a side, that occlusion hides together


def attributions(game: Game, method: str, options: Any, key: str) -> Float[Tensor, "f"]:
    """What each feature gives to the game's target, nats. key: of the example; its draws belong to it alone."""
    # Captum imports matplotlib, which takes seconds: only who measures waits for it.
    from captum import attr

    own, at_once = game.own, options.at_once
    absent = tuple(torch.zeros_like(part) for part in own)
    if method == IG:
        steps = {"n_steps": options.steps, "internal_batch_size": at_once}
        found = attr.IntegratedGradients(game.smooth).attribute(own, absent, **steps)
    elif method == GRADIENT:
        found = attr.InputXGradient(game.smooth).attribute(tuple(part.requires_grad_() for part in own))
    elif method == ABLATION:
        found = attr.FeatureAblation(game).attribute(own, absent, perturbations_per_eval=at_once)
    elif method == OCCLUSION:
        windows = tuple(tuple(min(WINDOW, size) for size in part.shape[1:]) for part in own)
        found = attr.Occlusion(game).attribute(own, windows, baselines=absent, perturbations_per_eval=at_once)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(crc32(key.encode()))
            asked = {"n_samples": options.samples, "perturbations_per_eval": at_once}
            found = attr.ShapleyValueSampling(game).attribute(own, absent, **asked)
    return game.flat(found)[0].detach().float()
