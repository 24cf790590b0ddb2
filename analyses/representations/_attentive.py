"""Efficient probing: learned queries that pool a picture's patches, trained beside a mean over them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._principal import components

WIDTH = 32  # of the patches' components, shared out among the queries
STEPS, RATE, DECAY = 150, 0.02, 0.05  # of AdamW
TEST_EPS = 1e-5


class Variant(NamedTuple):
    """codes: [n] classes from 0 on, −1 without one. attends: whether its queries are learned, or all patches alike."""

    codes: np.ndarray
    attends: bool


class Read(NamedTuple):
    """Of held-out examples. said: [variant, n]. looks: [variant, n, query, patch], NaN where there is no patch."""

    said: np.ndarray
    looks: np.ndarray


class Pool(NamedTuple):
    """Parameters of all variants: query m pools block m of the values, as in `metrics.query_pooling`."""

    queries: Float[Tensor, "variant query k"]
    values: Float[Tensor, "variant query k block"]
    weights: Float[Tensor, "variant k class"]
    biases: Float[Tensor, "variant class"]

    def looks(self, x: Tensor, there: Tensor, attends: Tensor) -> Float[Tensor, "n variant query patch"]:
        scores = torch.einsum("npk,vqk->nvqp", x, self.queries * attends[:, None, None]) / x.shape[-1] ** 0.5
        return scores.masked_fill(~there[:, None, None], -torch.inf).softmax(-1)

    def pooled(self, x: Tensor, looks: Tensor) -> Float[Tensor, "n variant k"]:
        means = torch.einsum("nvqp,npk->nvqk", looks, x)
        return torch.einsum("nvqk,vqkb->nvqb", means, self.values).flatten(2)

    def logits(self, state: Tensor) -> Float[Tensor, "n variant class"]:
        return torch.einsum("nvk,vkc->nvc", state, self.weights) + self.biases


def read_pooled(
    patches: Float[Tensor, "n patch d"],
    variants: list[Variant],
    folds: list[tuple[np.ndarray, np.ndarray]],
    queries: int,
) -> Read:
    """Every example by a pooling that never saw its group. Patches of NaN are none."""
    n, count = patches.shape[:2]
    said = np.zeros((len(variants), n), int)
    looks = np.full((len(variants), n, queries, count), np.nan)
    for train, test in folds:
        fold = _of_fold(patches[train], patches[test], variants, train, queries)
        said[:, test], looks[:, test] = fold.said, fold.looks
    return Read(said, looks)


def _of_fold(train: Tensor, test: Tensor, variants: list[Variant], rows: np.ndarray, queries: int) -> Read:
    known, asked = (~one.isnan().any(-1) for one in (train, test))
    few, many = components(train[known][None], test[asked][None], WIDTH // queries * queries)
    x, held_out = _laid(few[0], known, queries), _laid(many[0], asked, queries)
    codes = torch.from_numpy(np.stack([one.codes[rows] for one in variants], 1))
    attends = torch.tensor([float(one.attends) for one in variants])
    with torch.enable_grad():
        pool = _trained(x, known, codes, attends, queries)
    centre, spread = _spread(pool.pooled(x, pool.looks(x, known, attends)))
    looks = pool.looks(held_out, asked, attends)
    said = pool.logits((pool.pooled(held_out, looks) - centre) / spread).argmax(-1).T
    looks = looks.masked_fill(~asked[:, None, None], torch.nan).transpose(0, 1)
    return Read(said.numpy(), looks.numpy())


def _laid(values: Tensor, there: Tensor, queries: int) -> Float[Tensor, "n patch k"]:
    """Components back at their patches, 0 where there is none; as many as the queries divide."""
    width = -(-values.shape[1] // queries) * queries
    whole = values.new_zeros(*there.shape, width)
    whole[there] = torch.nn.functional.pad(values, (0, width - values.shape[1]))
    return whole


def _spread(state: Tensor) -> tuple[Tensor, Tensor]:
    """Batch norm: mean and standard deviation over the training examples."""
    return state.mean(0), (state.var(0, correction=0) + TEST_EPS).sqrt()


def _trained(x: Tensor, there: Tensor, codes: Int[Tensor, "n variant"], attends: Tensor, queries: int) -> Pool:
    """All variants together: their losses have no parameter in common."""
    pool = _begun(len(attends), queries, x.shape[2], int(codes.max()) + 1)
    steps = torch.optim.AdamW(pool, lr=RATE, weight_decay=DECAY)
    seen = torch.nn.functional.one_hot(codes.clamp_min(0)).mul((codes >= 0)[..., None]).any(0)  # [variant, class]
    for _ in range(STEPS):
        state = pool.pooled(x, pool.looks(x, there, attends))
        centre, spread = _spread(state)
        logits = pool.logits((state - centre) / spread).masked_fill(~seen, -1e9)
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), codes.flatten(), ignore_index=-1, reduction="none"
        )
        loss = (losses.view_as(codes).sum(0) / (codes >= 0).sum(0).clamp_min(1)).sum()
        steps.zero_grad()
        loss.backward()
        steps.step()
    biases = pool.biases.detach().masked_fill(~seen, -1e9)
    return Pool(pool.queries.detach(), pool.values.detach(), pool.weights.detach(), biases)


def _begun(variants: int, queries: int, width: int, classes: int) -> Pool:
    """Every variant begins with the same numbers."""
    drawn = torch.Generator().manual_seed(0)
    shapes = {(queries, width): 0.1, (queries, width, width // queries): width**-0.5, (width, classes): width**-0.5}
    made = [torch.randn(shape, generator=drawn) * size for shape, size in shapes.items()] + [torch.zeros(classes)]
    return Pool(*(one.expand(variants, *one.shape).clone().requires_grad_() for one in made))
