"""Stages 3 and 5: answers through the language model, whose norms alone may change, and little."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tasks import passages
from ...world.world import Scene
from ..scenes_model import gains
from .packs import LENGTH, NOTHING, Pack, draw_questions, one_of_each, pack, with_text
from .patches import COMPANY, MIX, as_drawn, draw_scenes, pictures
from .reading import Reader

ROWS, TEXTS = 6, 128
TEXT_ROWS, TEXT_EVERY = 1, 4  # in every fourth step one row is plain text
COMPANY_FROM = 350  # step from which hidden things are seen more often and asked about more
KEEP = 2.0  # weight of the divergence from the untouched language model on plain text


class Memory:
    """Windows of text with the untouched model's final states: what must not be forgotten."""

    @torch.no_grad()
    def __init__(self, reader: Reader, tokenizer: Any, n: int = TEXTS, length: int = LENGTH) -> None:
        windows = passages.examples(n, tokenizer=tokenizer, tokens=length, split="train")
        ids = [tokenizer.encode(window.text, add_special_tokens=False) for window in windows]
        # Every other window behind a BOS: tasks come with and without.
        starts = [[tokenizer.bos_token_id] if i % 2 else [] for i in range(len(ids))]
        rows = [(start + row + row)[:length] for start, row in zip(starts, ids, strict=True)]
        self.ids = torch.tensor(rows)
        places, mask = torch.arange(length)[None], torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        batches = self.ids.split(ROWS)
        states = [
            reader.run(
                reader.language.embed_tokens(b), mask.expand(len(b), -1, -1, -1), places.expand(len(b), -1).clone()
            )
            for b in batches
        ]
        self.states = torch.cat(states)

    def draw(self, step: int, n: int = TEXT_ROWS) -> tuple[Tensor, Tensor]:
        """Ids [n, p] and states [n, p, d] for a step."""
        chosen = [(step * n + i) % len(self.ids) for i in range(n)]
        return self.ids[chosen], self.states[chosen]


def make_batch(
    tokenizer: Any,
    seed: int,
    step: int,
    rows: int = ROWS,
    length: int = LENGTH,
    altered: Callable[[Scene], Scene] = as_drawn,
) -> tuple[Pack, Tensor]:
    """Questions about training scenes number step · rows …, `altered` first, and their pictures."""
    company = step >= COMPANY_FROM
    scenes = [altered(scene) for scene in draw_scenes("train", seed, step * rows, rows, COMPANY if company else MIX)]
    asked = [draw_questions(tokenizer, scene, random.Random(f"ask {scene.key}"), length, company) for scene in scenes]
    return pack(tokenizer, asked, length), pictures(scenes)


def answer_loss(
    reader: Reader, packed: Pack, images: Tensor, memory: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers, and the divergence from the untouched model on text."""
    whole = packed if memory is None else with_text(packed, memory[0])
    states = reader.states(whole, images)
    due = packed.labels != NOTHING
    n = len(packed.ids)
    logits = reader.logits(states[:n][due])
    weights = packed.weights[due]
    loss = (F.cross_entropy(logits, packed.labels[due], reduction="none") * weights).sum() / weights.sum()
    told = {"answers": loss.item(), "right": (logits.argmax(-1) == packed.labels[due]).float().mean().item()}
    if memory is not None:
        with torch.no_grad():
            before = reader.logits(memory[1]).log_softmax(-1)
        after = reader.logits(states[n:]).log_softmax(-1)
        forgotten = F.kl_div(after, before, log_target=True, reduction="none").sum(-1).mean()
        told["forgotten"] = forgotten.item()
        loss = loss + KEEP * forgotten
    return loss, told


class Gains:
    """The norms' gains in float32 beside the bfloat16 ones that compute: small steps would be rounded away."""

    def __init__(self, model: Any) -> None:
        self.full = {name: p.detach().float().clone() for name, p in gains(model).items()}
        self.working: dict[str, Tensor] = {}

    def adopt(self, model: Any) -> dict[str, Tensor]:
        """The float32 gains, to be trained in place of the model's, which were cast meanwhile."""
        self.working = gains(model)
        return self.full

    def take_gradients(self) -> None:
        for name, p in self.working.items():
            self.full[name].grad = None if p.grad is None else p.grad.float()
            p.grad = None

    @torch.no_grad()
    def give_values(self) -> None:
        for name, p in self.working.items():
            p.copy_(self.full[name])


def validate(reader: Reader, tokenizer: Any, n: int = 96, difficulty: str | None = None) -> dict[str, float]:
    """Exact answers by kind on validation scenes, as drawn for training or of one difficulty."""
    from ...world import world

    scenes = draw_scenes("validation", 0, 0, n)
    if difficulty is not None:
        scenes = [world.sample("validation", 0, i, difficulty) for i in range(n)]
    found: dict[str, list[bool]] = defaultdict(list)
    size = ROWS  # the shape that the layers are compiled for
    for start in range(0, n, size):
        some = (scenes[start : start + size] * size)[:size]
        asked = [one_of_each(scene, random.Random(f"ask {scene.key}")) for scene in some]
        packed = pack(tokenizer, asked, LENGTH)
        right = reader.correct(packed, pictures(some))
        for (row, part), good in right.items():
            if row < len(scenes[start : start + size]):
                found[packed.kinds[row, part]].append(good)
    return {kind: sum(values) / len(values) for kind, values in found.items()}
