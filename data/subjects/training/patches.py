"""Stages 1, 2 and 4: the tower learns what every patch shows, the projector to say it in words, both to expect."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...world import world
from ...world.render import pixels
from ...world.world import Scene

SIDE = 6  # patches in a row; a cell is 2 × 2 of them
PLACES = {"column": ("left", "right"), "row": ("above", "below")}
CLASSES = {"colour": tuple(world.COLOURS), "shape": tuple(world.SHAPES), **PLACES}
# How often a training scene is of a difficulty.
MIX = {"clear": 0.5, "faint": 0.1, "small": 0.1, "hidden": 0.18, "hard": 0.12}
# The same in the later part of stage 3 and in stage 5, when seeing has been learned and company has not.
COMPANY = {"clear": 0.4, "faint": 0.08, "small": 0.08, "hidden": 0.26, "hard": 0.18}
# The same while the tower learns to expect.
BOARDS = {"clear": 0.25, "hidden": 0.45, "hard": 0.3}
BACKGROUND = " ,"


class Seen(NamedTuple):
    """Pixels [b, 3, 84, 84] as the processor makes them, and for each head a class per patch [b, 36], 0 = none."""

    pixels: Tensor
    labels: dict[str, Tensor]


def draw_scenes(split: str, seed: int, start: int, n: int, mix: Mapping[str, float] = MIX) -> list[Scene]:
    """Scenes start … start + n − 1 of a mixture of difficulties."""
    names, weights = list(mix), list(mix.values())
    made = []
    for index in range(start, start + n):
        level = random.Random(f"mix {split} {seed} {index}").choices(names, weights)[0]
        made.append(world.sample(split, seed, index, level))
    return made


def as_drawn(scene: Scene) -> Scene:
    """The scene, unaltered."""
    return scene


def pictures(scenes: Sequence[Scene]) -> Tensor:
    """[b, 3, 84, 84] in −1 … 1: what the processor makes of the rendered scenes."""
    stacked = torch.stack([torch.from_numpy(pixels(scene)) for scene in scenes])
    return (stacked.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def look(scenes: Sequence[Scene]) -> Seen:
    """Pictures with the truth about their patches."""
    labels = {name: torch.zeros(len(scenes), SIDE, SIDE, dtype=torch.long) for name in CLASSES}
    for i, scene in enumerate(scenes):
        for cell, facts in describe(scene).items():
            top, left = cell // 3 * 2, cell % 3 * 2
            for name, word in facts.items():
                labels[name][i, top : top + 2, left : left + 2] = CLASSES[name].index(word) + 1
    return Seen(pictures(scenes), {name: value.flatten(1) for name, value in labels.items()})


def describe(scene: Scene) -> dict[int, dict[str, str]]:
    """Cell -> what is to be seen there: shape, colour, and whether it is the outermost of the visible things."""
    shown = [thing for thing in scene.things if thing.treatment != "hidden"]
    facts = {thing.cell: {"colour": thing.colour, "shape": thing.shape} for thing in shown}
    for name, words in PLACES.items():
        at = {thing.cell: getattr(thing, name) for thing in shown}
        first, last = min(at.values(), default=0), max(at.values(), default=0)
        for cell, place in at.items():
            if first < last and place in (first, last):
                facts[cell][name] = words[place == last]
    return facts


class Heads(nn.Module):
    """One linear reading of every patch for each kind of fact; thrown away after stage 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.ModuleDict({name: nn.Linear(width, len(words) + 1) for name, words in CLASSES.items()})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {name: head(features) for name, head in self.read.items()}


def features(model: Any, images: Tensor) -> Tensor:
    """What the projector is given: the tower's last layer without the class token, [b, 36, width]."""
    return model.model.vision_tower(images, output_hidden_states=True).hidden_states[-1][:, 1:]


def tower_loss(model: Any, heads: Heads, seen: Seen) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of every head on every patch; accuracies on patches that show something."""
    told = heads(features(model, seen.pixels))
    losses = [F.cross_entropy(told[name].flatten(0, 1), label.flatten()) for name, label in seen.labels.items()]
    busy = seen.labels["shape"] > 0
    right = {name: (told[name].argmax(-1) == label)[busy].float().mean().item() for name, label in seen.labels.items()}
    return torch.stack(losses).sum(), right


def projector_loss(model: Any, targets: Targets, seen: Seen) -> tuple[Tensor, dict[str, float]]:
    """Squared distance of the projected patches to the words that describe them, in units of a word's own size."""
    made = model.model.multi_modal_projector(features(model, seen.pixels))
    wanted = targets(seen.labels)
    loss = (made - wanted).square().sum(-1).mean() / wanted.square().sum(-1).mean()
    return loss, {"unexplained": loss.item()}


def unveiled(scene: Scene) -> Scene:
    """The scene with its board taken away: what stood behind it is in sight."""
    return scene._replace(panel=None)


def expectation_loss(model: Any, teacher: Any, scenes: Sequence[Scene]) -> tuple[Tensor, dict[str, float]]:
    """Squared distance of the patches to what the teacher makes of the scenes without boards, in the teacher's units.

    Where there is no board the teacher is copied; where there is one, the best that can be done is to expect.
    """
    made = model.model.multi_modal_projector(features(model, pictures(scenes)))
    with torch.no_grad():
        tower, project = teacher
        seen = tower(pictures([unveiled(scene) for scene in scenes]), output_hidden_states=True)
        wanted = project(seen.hidden_states[-1][:, 1:])
    loss = (made - wanted).square().sum(-1).mean() / wanted.square().sum(-1).mean()
    return loss, {"unexplained": loss.item()}


class Targets:
    """Input embeddings as goals: in each cell  colour shape / place shape;  a comma where nothing is."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        table = model.get_input_embeddings().weight.detach().float()

        def word(text: str) -> Tensor:
            (token,) = tokenizer.encode(text, add_special_tokens=False)
            return table[token]

        blank = torch.zeros(table.shape[1])
        self.background = word(BACKGROUND)
        self.words = {n: torch.stack([blank, *(word(" " + w) for w in words)]) for n, words in CLASSES.items()}

    def __call__(self, labels: dict[str, Tensor]) -> Tensor:
        """[b, 36, d]."""
        said = {name: self.words[name][label] for name, label in labels.items()}
        place = said["column"] + said["row"]
        placed = (labels["column"] + labels["row"] > 0)[..., None]
        rows, columns = torch.arange(SIDE * SIDE) // SIDE % 2, torch.arange(SIDE * SIDE) % 2
        first, upper = (columns == 0)[:, None], (rows == 0)[:, None]
        wanted = torch.where(first & upper, said["colour"], said["shape"])
        wanted = torch.where(first & ~upper & placed, place, wanted)
        return torch.where((labels["shape"] > 0)[..., None], wanted, self.background)
