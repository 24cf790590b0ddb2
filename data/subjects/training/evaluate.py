"""The test split, once: `python -m crosslens.data.training.evaluate CHECKPOINT` writes the numbers of the model card.

While something is still being chosen, `--split validation`.
In float32, exact answers by greedy decoding. Every cell has one question per scene, so that examples are independent:
intervals of shares are Wilson's, those of POPE's F1 and CHAIR resample scenes.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from ...example import Objects
from ...object_words import Counts, count
from ...progress import tracked
from ...world import questions, world
from ...world.questions import KINDS, POPE, Question
from ...world.world import Scene
from ..scenes_model import build, put, sha256, tokenizer
from .packs import Asked, one_of_each, pack, prefix, tokens
from .patches import pictures
from .reading import Reader

ROWS, LENGTH, SHORTER, LONGEST = 8, 160, 80, 24
RARE = ("shape", "left_right", "above_below")
IMAGES = ("real", "swapped")
Cell = tuple[str, str, str]  # difficulty, image, kind


def evaluate(
    model: Any, words: Any, n: int, difficulties: Sequence[str] = world.DIFFICULTIES, split: str = "test"
) -> dict[str, Any]:
    """All tables of the card, n questions a cell; swapped images on the clear scenes."""
    reader, found = Reader(model, torch.float32), Found(defaultdict(list), defaultdict(list))
    captions: dict[str, list[tuple[Counts, bool]]] = {}
    for difficulty in difficulties:
        scenes = [world.sample(split, 0, i, difficulty) for i in range(n)]
        more = _more(split, n, difficulty, scenes)
        for image in IMAGES if difficulty == "clear" else IMAGES[:1]:
            _answers(reader, words, scenes, (difficulty, image), ask_all, LENGTH, found)
            _answers(reader, words, more, (difficulty, image), ask_rare, SHORTER, found)
        captions[difficulty] = _captions(reader, words, scenes)
    return {
        "exact": [_share(cell, values, found.asked[cell]) for cell, values in found.right.items()],
        "pope": [_pope(level, kind, found) for level in difficulties for kind in POPE],
        "captions": [_chair(level, told) for level, told in captions.items()],
    }


class Found(NamedTuple):
    """Of each cell: whether each answer was right; each question with its true answer."""

    right: dict[Cell, list[bool]]
    asked: dict[Cell, list[tuple[str, str]]]


def ask_all(scene: Scene) -> list[Asked]:
    """One question of every kind, POPE's three sets included, as the task `scenes` asks them."""
    made = one_of_each(scene, random.Random(f"{scene.key} card"), KINDS)
    for kind in POPE:
        question = questions.ask(kind, scene, random.Random(f"{scene.key} pope"))
        assert question is not None
        made.append((question, questions.answer(question, scene)))
    return made


def ask_rare(scene: Scene) -> list[Asked]:
    """Questions that not every scene allows."""
    return one_of_each(scene, random.Random(f"{scene.key} card"), RARE)


def _more(split: str, n: int, difficulty: str, scenes: Sequence[Scene]) -> list[Scene]:
    """Further scenes, so that rare kinds get n questions too."""
    count = Counter(question.kind for scene in scenes for question, _ in ask_rare(scene))
    more: list[Scene] = []
    while min(count[kind] for kind in RARE) < n:
        more.append(world.sample(split, 0, n + len(more), difficulty))
        count.update(question.kind for question, _ in ask_rare(more[-1]))
    return more


def _answers(
    reader: Reader,
    words: Any,
    scenes: list[Scene],
    where: tuple[str, str],
    ask: Callable[[Scene], list[Asked]],
    length: int,
    found: Found,
) -> None:
    for start in tracked(range(0, len(scenes), ROWS), " ".join(where)):
        some = scenes[start : start + ROWS]
        rows = [ask(scene) for scene in some]
        right = reader.correct(pack(words, rows, length), _shown(scenes, start, len(some), where[1]))
        for (row, part), good in right.items():
            question, reply = rows[row][part - 1]
            found.right[*where, question.kind].append(good)
            found.asked[*where, question.kind].append((question.text()[0], reply))


def _shown(scenes: list[Scene], start: int, n: int, image: str) -> Tensor:
    """The scenes' own pictures, or those of the scenes half a list away."""
    by = len(scenes) // 2 if image == "swapped" else 0
    return pictures([scenes[(start + i + by) % len(scenes)] for i in range(n)])


def _share(cell: Cell, values: list[bool], asked: list[tuple[str, str]]) -> dict[str, Any]:
    """Exact answers with Wilson's interval; and what the best constant answer per question would get."""
    low, high = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    by_question: dict[str, list[str]] = defaultdict(list)
    for question, reply in asked:
        by_question[question].append(reply)
    constant = sum(max(map(replies.count, set(replies))) for replies in by_question.values()) / len(asked)
    difficulty, image, kind = cell
    return {
        **{"difficulty": difficulty, "image": image, "kind": kind, "n": len(values)},
        **{"value": sum(values) / len(values), "lower": low, "upper": high, "constant": constant},
    }


def _pope(level: str, kind: str, found: Found) -> dict[str, Any]:
    """F1 of "yes". A wrong answer to a yes/no question counts as the other one."""
    cell = (level, "real", kind)
    truth = np.array([reply == "yes" for _, reply in found.asked[cell]])
    good = np.array(found.right[cell])
    counts = np.stack([truth & good, ~truth & ~good, truth & ~good], 1).astype(float)  # hit, false alarm, miss
    value, low, high = bootstrap(counts, lambda c: 2 * c[..., 0] / (2 * c[..., 0] + c[..., 1] + c[..., 2]))
    alarm = float((~good[~truth]).mean())
    return {
        **{"difficulty": level, "set": kind.removeprefix("pope_"), "n": len(good), "f1": value},
        **{"lower": low, "upper": high, "accuracy": float(good.mean()), "false_alarms": alarm},
    }


def bootstrap(counts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float, float]:
    """The statistic of summed counts [n, k] with the 95 % interval over resampled rows."""
    if not counts[:, :2].any():  # a model that names nothing has no share of wrong names
        return float("nan"), float("nan"), float("nan")
    drawn = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=2000)
    low, high = np.percentile(statistic(drawn @ counts), [2.5, 97.5])
    return float(statistic(counts.sum(0))), float(low), float(high)


def _captions(reader: Reader, words: Any, scenes: list[Scene]) -> list[tuple[Counts, bool]]:
    """For every scene: what CHAIR counts in the caption, and whether its set of coloured objects is right."""
    told = []
    for start in tracked(range(0, len(scenes), 32), "captions"):
        some = scenes[start : start + 32]
        for scene, text in zip(some, caption(reader, words, pictures(some)), strict=True):
            truth = questions.coloured(questions.caption(scene))
            objects = Objects(questions.WORDS, frozenset(scene.shapes))
            told.append((count(text, objects), questions.coloured(text) == truth))
    return told


@torch.no_grad()
def caption(reader: Reader, words: Any, images: Tensor) -> list[str]:
    """Greedy captions by stock generation."""
    prompt, _ = tokens(words, Question("caption"), "")
    ids = torch.tensor([prefix(words) + prompt]).expand(len(images), -1)
    reader.model.set_attn_implementation({"text_config": "sdpa"})
    end = words.eos_token_id
    made = reader.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=images,
        do_sample=False,
        max_new_tokens=LONGEST,
        eos_token_id=end,
        pad_token_id=end,
    )
    reader.model.set_attn_implementation({"text_config": reader.attention})
    return words.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)


def _chair(level: str, told: list[tuple[Counts, bool]]) -> dict[str, Any]:
    """CHAIR_I (share of object words without object), CHAIR_S (captions with one), recall, length, exact sets."""
    counts = np.array([[c.hallucinated, c.named, c.found, c.there] for c, _ in told], float)
    value, low, high = bootstrap(counts, lambda c: c[..., 0] / c[..., 1])
    sets = [good for _, good in told]
    set_low, set_high = binomtest(sum(sets), len(sets)).proportion_ci(method="wilson")
    return {
        **{"difficulty": level, "n": len(told), "chair_i": value, "lower": low, "upper": high},
        **{"chair_s": float((counts[:, 0] > 0).mean()), "recall": counts[:, 2].sum() / counts[:, 3].sum()},
        **{"words": counts[:, 1].mean(), "object_set": sum(sets) / len(sets)},
        **{"object_set_lower": set_low, "object_set_upper": set_high},
    }


def main() -> None:
    """Command line: numbers as JSON beside the checkpoint, with its hash."""
    from .__main__ import with_malloc

    asked = argparse.ArgumentParser(prog="python -m crosslens.data.training.evaluate", description=__doc__)
    asked.add_argument("checkpoint", type=Path)
    asked.add_argument("--n", type=int, default=500)
    asked.add_argument("--out", type=Path)
    asked.add_argument("--split", choices=list(world.SPLITS), default="test")
    asked.add_argument("--difficulty", choices=world.DIFFICULTIES, nargs="+", default=list(world.DIFFICULTIES))
    asked.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = asked.parse_args()
    with_malloc("crosslens.data.subjects.training.evaluate")
    torch.set_num_threads(given.threads)
    model = build()
    put(model, given.checkpoint)
    found: dict[str, Any] = {"checkpoint": sha256(given.checkpoint), "split": given.split, "n": given.n}
    found["versions"] = {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "transformers")
    }
    out, words = given.out or given.checkpoint.with_name(f"{given.split}.json"), tokenizer()
    for difficulty in given.difficulty:
        for name, rows in evaluate(model, words, given.n, [difficulty], given.split).items():
            found.setdefault(name, []).extend(rows)
        out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(out)


if __name__ == "__main__":
    main()
