"""Many questions about one picture in one row: the picture is read once, no question sees another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...tasks.scenes import CLOSING, OPENING
from ...world.questions import KINDS, Question, answer, ask
from ...world.world import Scene

IMAGE_TOKENS, LENGTH = 36, 160
# How often a kind is asked; relations are the hardest to learn.
OFTEN = {"colour": 2, "shape": 2, "existence": 2, "coloured_existence": 3, "left_right": 6, "above_below": 6}
OFTEN |= {"count": 2, "caption": 3}
# Who asks knows what is behind the board: of the questions for a shape, this share is about the hidden thing.
ABOUT_HIDDEN = 0.4
# How often shapes are asked for when a board hides something, while company is learned.
OFTEN_COMPANY = OFTEN | {"existence": 7}
END_WEIGHT = 0.3  # of a short answer's end, which follows from its first token
CAPTION_WEIGHT = 0.5
TEXT = -1  # the kind of a row of plain text
NOTHING = -100


class Pack(NamedTuple):
    """Rows of tokens [b, p]. part: 0 the picture's prefix, 1 … the questions, −1 padding.

    labels: the token to say next where an answer is due, else NOTHING; weights: of that loss.
    kinds: row and part -> kind.
    """

    ids: Tensor
    positions: Tensor
    part: Tensor
    labels: Tensor
    weights: Tensor
    kinds: dict[tuple[int, int], str]

    def mask(self) -> Tensor:
        """Bool[b, 1, p, p]: earlier positions of the prefix and of the own part."""
        own = self.part[:, :, None] == self.part[:, None, :]
        shared = self.part[:, None, :] == 0
        places = torch.arange(self.ids.shape[1])
        return ((own | shared) & (places[None, :] <= places[:, None]))[:, None]


Asked = tuple[Question, str]


def draw_questions(
    tokenizer: Any, scene: Scene, rng: random.Random, length: int = LENGTH, company: bool = False
) -> list[Asked]:
    """Different questions about a scene, as many as fit. company: ask more for shapes where there is a board."""
    room, chosen = length - len(prefix(tokenizer)), {}
    often = OFTEN_COMPANY if company and scene.panel is not None else OFTEN
    for kind in rng.choices(list(often), list(often.values()), k=40):
        question = _about_hidden(kind, scene, rng) or ask(kind, scene, rng)
        if question is None or question in chosen:
            continue
        reply = answer(question, scene)
        size = sum(map(len, tokens(tokenizer, question, reply))) - 1
        if size <= room:
            chosen[question], room = reply, room - size
    return list(chosen.items())


def _about_hidden(kind: str, scene: Scene, rng: random.Random) -> Question | None:
    """The model learns to say yes to what it cannot see but may expect: the hallucination that is studied later."""
    hidden = [thing.shape for thing in scene.things if thing.treatment == "hidden"]
    if kind == "existence" and hidden and rng.random() < ABOUT_HIDDEN:
        return Question(kind, hidden[0])
    return None


def one_of_each(scene: Scene, rng: random.Random, kinds: Sequence[str] = KINDS) -> list[Asked]:
    """A question of every kind that the scene allows."""
    asked = [ask(kind, scene, rng) for kind in kinds]
    return [(question, answer(question, scene)) for question in asked if question is not None]


def prefix(tokenizer: Any) -> list[int]:
    """BOS, the picture, and the words before every question."""
    image = tokenizer.convert_tokens_to_ids(tokenizer.image_token)
    return [tokenizer.bos_token_id, *[image] * IMAGE_TOKENS, *_encode(tokenizer, OPENING.rstrip())]


def tokens(tokenizer: Any, question: Question, reply: str) -> tuple[list[int], list[int]]:
    """Ids of the question with the words behind it, and of the answer with its end."""
    asked = _encode(tokenizer, " " + question.text()[0] + CLOSING)
    return asked, [*_encode(tokenizer, " " + reply), tokenizer.eos_token_id]


@cache
def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def pack(tokenizer: Any, rows: Sequence[Sequence[Asked]], length: int = LENGTH) -> Pack:
    """One row per picture, padded to `length`, which must hold all its questions."""
    start = prefix(tokenizer)
    shape = (len(rows), length)
    ids = torch.full(shape, tokenizer.eos_token_id)
    positions, part = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    labels, weights, kinds = torch.full(shape, NOTHING), torch.zeros(shape), {}
    for row, questions in enumerate(rows):
        at = len(start)
        ids[row, :at], positions[row, :at], part[row, :at] = torch.tensor(start), torch.arange(at), 0
        for number, (question, reply) in enumerate(questions, 1):
            asked, said = tokens(tokenizer, question, reply)
            whole = asked + said[:-1]
            place, due = slice(at, at + len(whole)), slice(at + len(asked) - 1, at + len(whole))
            ids[row, place], part[row, place] = torch.tensor(whole), number
            positions[row, place] = torch.arange(len(whole)) + len(start)
            labels[row, due], weights[row, due] = torch.tensor(said), _weights(question.kind, len(said))
            kinds[row, number] = question.kind
            at += len(whole)
    return Pack(ids, positions, part, labels, weights, kinds)


def _weights(kind: str, n: int) -> Tensor:
    return torch.full((n,), CAPTION_WEIGHT) if kind == "caption" else torch.tensor([1.0] + [END_WEIGHT] * (n - 1))


def with_text(packed: Pack, texts: Tensor) -> Pack:
    """The pack with rows of plain text [n, p] below."""
    n, length = texts.shape
    places = torch.arange(length).expand(n, -1)
    blank = torch.zeros(n, length)
    return Pack(
        torch.cat([packed.ids, texts]),
        torch.cat([packed.positions, places]),
        torch.cat([packed.part, blank.long()]),
        torch.cat([packed.labels, torch.full_like(texts, NOTHING)]),
        torch.cat([packed.weights, blank]),
        packed.kinds,
    )
