"""Train the scenes subject: `python -m crosslens.data.subjects.training --out DIR` goes on after a kill."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from copy import deepcopy
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from ...world.world import Scene
from ..scenes_model import build, parts, save, tokenizer
from . import answers, patches
from .loop import Folder, Keep, Stage, run
from .reading import Reader

STEPS = {"tower": 2400, "projector": 300, "answers": 621, "expectation": 350, "answers again": 230}
ANSWERS_HORIZON = 850  # the learning rate of the first answers falls as if they went on so long
PICTURES = 32  # a step of the first two stages
# Learning rates of each stage.
TOWER, PROJECTOR = 1e-3, 2e-3
ANSWERS = {"vision_tower": 1e-4, "multi_modal_projector": 4e-4, "language_model": 1.2e-3}
EXPECTATION = 3e-4  # tower and projector
AGAIN = 0.4  # of the rates of the first answers
MALLOC = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592:glibc.malloc.arena_max=1"


def train(
    model: Any,
    words: Any,
    folder: Folder,
    *,
    seed: int = 0,
    steps: dict[str, int] = STEPS,
    pictures: int = PICTURES,
    dtype: torch.dtype = torch.bfloat16,
    compiled: bool = False,
    checkpoints: int = 0,
) -> None:
    """All stages; then the checkpoint, `scenes.safetensors` in the folder. checkpoints: see `kept_on_the_way`."""
    still(model, seed)
    told: dict[str, Any] = {"seed": seed, "keep": kept_on_the_way(model, folder, steps, checkpoints)}
    done = list(STEPS).index(folder.state().get("stage", "tower"))
    for stage in (tower, projector)[done:]:
        run(stage(model, words, seed, steps, pictures), folder, **told)
    answering = Answering(model, words, seed, dtype, compiled)
    if done <= 2:
        run(answering.stage("answers", steps, 0, ANSWERS, ANSWERS_HORIZON), folder, **told)
    if done <= 3:
        first = (steps["tower"] + steps["projector"]) * pictures
        run(expectation(model, answering.gains, seed, steps["expectation"], first, pictures), folder, **told)
    last = answering.stage("answers again", steps, 2 * ANSWERS_HORIZON, slower_rates())
    run(last, folder, **told)
    save(last.tensors, folder.path / "scenes.safetensors")


def kept_on_the_way(model: Any, folder: Folder, steps: dict[str, int], count: int) -> Keep:
    """Writes the model as it is at `count` evenly spaced steps of the whole training, the last one among them:
    `steps/step-0400.safetensors`, each a subject of its own. 0: none.
    """
    whole = sum(steps.values())
    begun = dict(zip(steps, accumulate([0, *steps.values()]), strict=False))
    wanted = {round(whole * (i + 1) / count) for i in range(count)}

    def keep(stage: str, step: int) -> None:
        if (done := begun[stage] + step) in wanted:
            (folder.path / "steps").mkdir(exist_ok=True)
            save(parts(model), folder.path / "steps" / f"step-{done:0{len(str(whole))}d}.safetensors")

    return keep


def still(model: Any, seed: int) -> None:
    """Seed, and a model in which nothing learns before a stage names it."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def slower_rates() -> dict[str, float]:
    """Learning rates of answers that are only improved."""
    return {part: AGAIN * rate for part, rate in ANSWERS.items()}


def _trainable(model: Any, part: str) -> dict[str, torch.Tensor]:
    named = {name: tensor for name, tensor in parts(model).items() if name.startswith(part)}
    for tensor in named.values():
        tensor.requires_grad_(True)
    return named


def tower(model: Any, words: Any, seed: int, steps: dict[str, int], pictures: int) -> Stage:
    """Stage 1: what every patch shows."""
    heads = patches.Heads(model.config.vision_config.hidden_size)
    trained = _trainable(model, "vision_tower") | {f"heads.{n}": p for n, p in heads.named_parameters()}
    examine = _examine(lambda seen: patches.tower_loss(model, heads, seen))

    def loss(step: int) -> Any:
        return patches.tower_loss(model, heads, patches.look(_draw(seed, step, pictures)))

    return Stage("tower", steps["tower"], {TOWER: trained}, loss, decay=0.01, check=examine)


def projector(model: Any, words: Any, seed: int, steps: dict[str, int], pictures: int) -> Stage:
    """Stage 2: the patches in the language model's words; the tower may follow."""
    targets = patches.Targets(model, words)
    groups = {PROJECTOR: _trainable(model, "multi_modal_projector"), PROJECTOR / 10: _trainable(model, "vision_tower")}

    def loss(step: int) -> Any:
        seen = patches.look(_draw(seed, steps["tower"] + step, pictures))
        return patches.projector_loss(model, targets, seen)

    return Stage("projector", steps["projector"], groups, loss)


class Answering:
    """Stages 3 and 5: answers. Tower, projector and the norms' gains learn.

    altered: what becomes of a scene before it is drawn and asked about.
    """

    def __init__(
        self,
        model: Any,
        words: Any,
        seed: int,
        dtype: torch.dtype,
        compiled: bool,
        altered: Callable[[Scene], Scene] = patches.as_drawn,
    ) -> None:
        self.model, self.words, self.seed, self.altered = model, words, seed, altered
        self.gains = answers.Gains(model)
        self.reader = Reader(model, dtype, compiled=compiled)
        self.memory = answers.Memory(self.reader, words)
        self.adopted = self.gains.adopt(model)

    def stage(self, name: str, steps: dict[str, int], first: int, rates: dict[str, float], horizon: int = 0) -> Stage:
        """first: the number of its first batch."""
        groups = {rate: _trainable(self.model, part) for part, rate in rates.items()}
        groups[rates["language_model"]] = self.adopted
        return Stage(
            name,
            steps[name],
            groups,
            lambda step: self._loss(first + step),
            horizon,
            before=self.gains.take_gradients,
            after=self.gains.give_values,
            check=lambda: answers.validate(self.reader, self.words, 48, "clear"),
        )

    def _loss(self, step: int) -> Any:
        with_text = step % answers.TEXT_EVERY == 0
        rows = answers.ROWS - answers.TEXT_ROWS * with_text
        packed, images = answers.make_batch(self.words, self.seed, step, rows, altered=self.altered)
        text = self.memory.draw(step // answers.TEXT_EVERY) if with_text else None
        return answers.answer_loss(self.reader, packed, images, text)


def expectation(
    model: Any,
    gains: answers.Gains,
    seed: int,
    steps: int,
    first: int,
    pictures: int,
    altered: Callable[[Scene], Scene] = patches.as_drawn,
) -> Stage:
    """Stage 4: behind a board the tower expects what usually stands beside what is in sight.

    first: the number of its first picture.
    """
    teacher = deepcopy(model.model.vision_tower), deepcopy(model.model.multi_modal_projector)
    kept = {f"teacher.{i}.{name}": p for i, part in enumerate(teacher) for name, p in part.named_parameters()}
    learning = _trainable(model, "vision_tower") | _trainable(model, "multi_modal_projector")

    def loss(step: int) -> Any:
        scenes = patches.draw_scenes("train", seed, first + step * pictures, pictures, patches.BOARDS)
        return patches.expectation_loss(model, teacher, [altered(scene) for scene in scenes])

    return Stage(
        "expectation",
        steps,
        {EXPECTATION: learning},
        loss,
        kept=kept | gains.full,
        after=gains.give_values,
    )


def _draw(seed: int, step: int, n: int) -> list[Any]:
    return patches.draw_scenes("train", seed, step * n, n)


def _examine(loss: Callable[[Any], tuple[Any, dict[str, float]]]) -> Callable[[], dict[str, float]]:
    """The stage's numbers on validation scenes."""
    seen = patches.look(patches.draw_scenes("validation", 0, 0, 200))

    @torch.no_grad()
    def examine() -> dict[str, float]:
        return loss(seen)[1]

    return examine


def with_malloc(module: str) -> None:
    """Start the command again with malloc's thresholds raised: without them bfloat16 is many times slower."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = MALLOC
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def main() -> None:
    """Command line."""
    asked = argparse.ArgumentParser(prog="python -m crosslens.data.subjects.training", description=__doc__)
    asked.add_argument("--out", type=Path, default=Path("reports/out/scenes"))
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked.add_argument("--checkpoints", type=int, default=0, help="how many on the way are kept as subjects")
    given = asked.parse_args()
    with_malloc("crosslens.data.subjects.training")
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)  # the tower's first weights are drawn where the model is built
    train(build(), tokenizer(), Folder(given.out), seed=given.seed, compiled=True, checkpoints=given.checkpoints)
    print(given.out / "scenes.safetensors")


if __name__ == "__main__":
    main()
